// Bundles page/page.js when the browser asks for it, and serves it with the rest of page/ to this machine: node serve.mjs [PORT].
import { fileURLToPath } from "node:url";
import { context } from "esbuild";

const [port = "8000"] = process.argv.slice(2);
const bundle = await context({
  entryPoints: { bundle: "page/page.js" },
  absWorkingDir: fileURLToPath(new URL(".", import.meta.url)),
  outdir: "page",
  write: false,
  bundle: true,
  format: "esm",
  target: "es2022",
  loader: { ".wasm": "file" },
  logLevel: "warning",
});
const served = await bundle.serve({ host: "127.0.0.1", port: Number(port), servedir: "page" });
console.log(`http://127.0.0.1:${served.port}/`);
