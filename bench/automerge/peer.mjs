// automerge-repo's own sync server, as its documentation puts it together: node peer.mjs PORT DIRECTORY.
//
// Its storage is what @automerge/automerge-repo-storage-nodefs does: a file a chunk, written and renamed by nobody, never flushed. The packages are those
// that the tests have installed.
import { createServer } from "node:http"
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises"
import { createRequire } from "node:module"
import path from "node:path"
import { pathToFileURL } from "node:url"

const require = createRequire(new URL("../../crates/seabed/tests/js/package.json", import.meta.url))
const load = name => import(pathToFileURL(require.resolve(name)))
const { Repo } = await load("@automerge/automerge-repo")
const { WebSocketServerAdapter } = await load("@automerge/automerge-repo-network-websocket")
const { default: WebSocket } = await load("ws")

const [port, directory] = process.argv.slice(2)

class Files {
    place([first, ...rest]) {
        return path.join(directory, first.slice(0, 2), first.slice(2), ...rest)
    }
    async load(key) {
        return readFile(this.place(key)).then(bytes => new Uint8Array(bytes), () => undefined)
    }
    async save(key, bytes) {
        await mkdir(path.dirname(this.place(key)), { recursive: true })
        await writeFile(this.place(key), bytes)
    }
    async remove(key) {
        await rm(this.place(key), { force: true })
    }
    async loadRange(prefix) {
        const entries = await readdir(this.place(prefix), { recursive: true, withFileTypes: true }).catch(() => [])
        const files = entries.filter(entry => entry.isFile())
        return Promise.all(
            files.map(async file => {
                const place = path.join(file.parentPath ?? file.path, file.name)
                const rest = path.relative(this.place(prefix), place).split(path.sep)
                return { key: [...prefix, ...rest], data: new Uint8Array(await readFile(place)) }
            })
        )
    }
    async removeRange(prefix) {
        await rm(this.place(prefix), { force: true, recursive: true })
    }
}

// The repository takes connections once it has loaded who it is, and ends those that came before after five seconds: nobody is let in before.
const http = createServer()
const server = new WebSocket.WebSocketServer({ server: http })
server.on("newListener", event => event === "connection" && http.listen(Number(port), "127.0.0.1"))
new Repo({ network: [new WebSocketServerAdapter(server)], storage: new Files(), sharePolicy: async () => false })
