// Browser windows, driven by JSON lines: a request a line on stdin, a reply a line on stdout.
// Windows of one profile share what the browser keeps; what a window shows is waited for, with a bound that a hanging test ends at.
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const WAIT_MS_MAX = 60_000;

const browser = await chromium.launch({
  executablePath: process.argv[2],
  timeout: WAIT_MS_MAX,
  // As root there is no sandbox to be had; the rest is what asks others for things.
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
const profiles = new Map();
const windows = new Map();
const faults = [];

const operations = {
  async open({ window, profile, address }) {
    if (!profiles.has(profile)) profiles.set(profile, await browser.newContext({ viewport: { width: 720, height: 480 } }));
    const page = await profiles.get(profile).newPage();
    page.setDefaultTimeout(WAIT_MS_MAX);
    page.on("pageerror", (error) => faults.push(`${window}: ${error}`));
    windows.set(window, page);
    await page.goto(address);
    return {};
  },
  async reload({ window }) {
    await windows.get(window).reload();
    return {};
  },
  /** Until the page says that. */
  async state({ window, state }) {
    const page = windows.get(window);
    await page.waitForSelector(`#status[data-state=${state}]`);
    return { words: await page.textContent("#status"), address: page.url(), command: await page.textContent("#command") };
  },
  /** Types behind the letter of that number. */
  async type({ window, at, text }) {
    const area = windows.get(window).locator("#text:enabled");
    await area.evaluate((area, at) => area.setSelectionRange(at, at), at);
    await area.pressSequentially(text);
    return {};
  },
  /** Until the text is one that is wanted. */
  async text({ window, text }) {
    await windows.get(window).waitForFunction((text) => document.getElementById("text").value === text, text);
    return {};
  },
  async caret({ window }) {
    return { caret: await windows.get(window).locator("#text").evaluate((area) => area.selectionStart) };
  },
  /** What scripts threw without anybody catching it. */
  async faults() {
    return { faults };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, ...request } = JSON.parse(line);
  const reply = (said) => process.stdout.write(`${JSON.stringify(said)}\n`);
  await operations[op](request).then(
    (said) => reply({ ok: true, ...said }),
    (error) => reply({ ok: false, error: String(error?.stack ?? error) }),
  );
}
await browser.close();
