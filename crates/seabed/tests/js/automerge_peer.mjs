// Clients of the published automerge-repo, driven by JSON lines: a request a line on stdin, a reply a line on stdout.
// Requests run side by side, each reply carries the `id` of its request. Waiting is for events, with a bound that a hanging test ends at.
import { createInterface } from "node:readline";
import { Repo } from "@automerge/automerge-repo";
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket";

const WAIT_MS_MAX = 60_000;
const RETRY_MS = 100;

// The adapter throws out of timers when a server goes away under it.
process.on("uncaughtException", (error) => {
  if (!/ECONN|EPIPE|Websocket not ready|socket hang up|WebSocket was closed/.test(String(error))) throw error;
});

const clients = new Map();

/** Storage in memory that outlives its repo: what a client's disk is. */
const disks = new Map();

class Disk {
  constructor(name) {
    this.rows = disks.get(name) ?? new Map();
    disks.set(name, this.rows);
  }
  async load(key) {
    return this.rows.get(JSON.stringify(key))?.data;
  }
  async save(key, data) {
    this.rows.set(JSON.stringify(key), { key, data });
  }
  async remove(key) {
    this.rows.delete(JSON.stringify(key));
  }
  async loadRange(prefix) {
    return [...this.rows.values()].filter(({ key }) => prefix.every((part, at) => key[at] === part));
  }
  async removeRange(prefix) {
    for (const { key } of await this.loadRange(prefix)) await this.remove(key);
  }
}

const bounded = (promise, what) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited for ${what} in vain`)), WAIT_MS_MAX);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

/** Until the condition holds; it is looked at again at each of these events. */
const until = (emitter, names, condition, what) =>
  bounded(
    new Promise((resolve) => {
      const look = () => {
        const value = condition();
        if (!value) return;
        for (const name of names) emitter.off(name, look);
        resolve(value);
      };
      for (const name of names) emitter.on(name, look);
      look();
    }),
    what,
  );

const handleOf = ({ client, url }) => clients.get(client).handles.get(url);

const read = (handle) => (handle.isReady() ? JSON.parse(JSON.stringify(handle.doc())) : null);

const server = (state) => state.repo.peers.map((peer) => state.repo.getStorageIdOfPeer(peer)).find(Boolean);

function connect(state, url) {
  state.adapter = new WebSocketClientAdapter(url, RETRY_MS);
  state.repo.networkSubsystem.addNetworkAdapter(state.adapter);
}

const operations = {
  /** A client, connected. With `disk` it keeps what it has, under that name. */
  async connect({ client, server: url, disk, gossip }) {
    const repo = new Repo({
      peerId: `${client}-${Math.random().toString(36).slice(2)}`,
      storage: disk ? new Disk(disk) : undefined,
      network: [],
      enableRemoteHeadsGossiping: Boolean(gossip),
    });
    const state = { repo, handles: new Map(), heard: new Map() };
    clients.set(client, state);
    connect(state, url);
    await until(repo.networkSubsystem, ["peer"], () => repo.peers.length > 0, "the server");
    return { storage: server(state), disk: disk ? await repo.storageId() : null };
  },
  async disconnect({ client }) {
    const state = clients.get(client);
    state.repo.networkSubsystem.removeNetworkAdapter(state.adapter);
    return {};
  },
  async reconnect({ client, server: url }) {
    const state = clients.get(client);
    connect(state, url);
    await until(state.repo.networkSubsystem, ["peer"], () => state.repo.peers.length > 0, "the server");
    return {};
  },
  async create({ client, value, count = 1 }) {
    const { repo, handles } = clients.get(client);
    const urls = [];
    for (let number = 0; number < count; number += 1) {
      const handle = repo.create(value ?? {});
      handles.set(handle.url, handle);
      urls.push(handle.url);
    }
    return { url: urls[0], urls };
  },
  /** Asks for a document; `state` is ready or unavailable. */
  async find({ client, url }) {
    const { repo, handles } = clients.get(client);
    const handle = await bounded(repo.find(url, { allowableStates: ["ready", "unavailable"] }), url);
    handles.set(url, handle);
    return { state: handle.state, value: read(handle) };
  },
  async change({ client, url, key, value }) {
    handleOf({ client, url }).change((doc) => {
      doc[key] = value;
    });
    return {};
  },
  /** Many changes, one after the other. */
  async changes({ client, url, key, count }) {
    const handle = handleOf({ client, url });
    for (let number = 0; number < count; number += 1) {
      handle.change((doc) => {
        doc[`${key}${number % 100}`] = number;
      });
    }
    return {};
  },
  /** Until the server has ended the connection, and lets it in no more. */
  async cut({ client }) {
    const { repo } = clients.get(client);
    await until(repo.networkSubsystem, ["peer-disconnected"], () => repo.peers.length === 0, "the end");
    return {};
  },
  async value(request) {
    return { value: read(handleOf(request)) };
  },
  /** Until the document has that under the key. */
  async wait({ client, url, key, value }) {
    const handle = handleOf({ client, url });
    const wanted = JSON.stringify(value);
    // A change that makes a document ready is told before it is.
    await until(
      handle,
      ["change", "heads-changed"],
      () => handle.isReady() && JSON.stringify(handle.doc()[key]) === wanted,
      `${key} of ${url}`,
    );
    return { value: read(handle) };
  },
  /** Until the document is there. */
  async ready(request) {
    const handle = handleOf(request);
    await bounded(handle.whenReady(), request.url);
    return { value: read(handle) };
  },
  /** Until the server has said that it has all of the document. */
  async acknowledged({ client, url }) {
    const state = clients.get(client);
    const handle = handleOf({ client, url });
    const same = () => {
      const storage = server(state);
      const heads = storage && handle.getSyncInfo(storage)?.lastHeads;
      return heads && JSON.stringify([...heads].sort()) === JSON.stringify([...handle.heads()].sort());
    };
    await until(handle, ["remote-heads"], same, `the server to have ${url}`);
    return {};
  },
  async broadcast({ client, url, message }) {
    handleOf({ client, url }).broadcast(message);
    return {};
  },
  async listen({ client, url }) {
    const { heard } = clients.get(client);
    heard.set(url, []);
    handleOf({ client, url }).on("ephemeral-message", ({ message }) => heard.get(url).push(message));
    return {};
  },
  /** Until so many ephemeral messages were heard; all that were. */
  async heard({ client, url, count }) {
    const { heard } = clients.get(client);
    await until(
      handleOf({ client, url }),
      ["ephemeral-message"],
      () => heard.get(url).length >= count,
      "ephemeral messages",
    );
    return { messages: heard.get(url) };
  },
  async subscribe({ client, storage }) {
    clients.get(client).repo.subscribeToRemotes([storage]);
    return {};
  },
  /** Until a storage that is not connected here is known to have what this client has. */
  async remote({ client, url, storage }) {
    const handle = handleOf({ client, url });
    const same = () => JSON.stringify(handle.getSyncInfo(storage)?.lastHeads) === JSON.stringify(handle.heads());
    await until(handle, ["remote-heads"], same, `${storage} to have ${url}`);
    return {};
  },
  /** Edits a document without end; which of its edits the server has acknowledged is told by `edited`. */
  async edit({ client, url }) {
    const state = clients.get(client);
    const handle = handleOf({ client, url });
    const edits = { made: 0, acknowledged: 0, heads: new Map() };
    state.edits = state.edits ?? new Map();
    state.edits.set(url, edits);
    handle.on("remote-heads", ({ storageId, heads }) => {
      if (storageId !== server(state) && storageId !== state.server) return;
      state.server = storageId;
      for (const head of heads) edits.acknowledged = Math.max(edits.acknowledged, edits.heads.get(head) ?? 0);
    });
    state.server = server(state);
    const step = () => {
      handle.change((doc) => {
        doc[`edit ${edits.made + 1}`] = true;
      });
      edits.made += 1;
      edits.heads.set(handle.heads()[0], edits.made);
      state.timer = setTimeout(step, 5);
    };
    step();
    return {};
  },
  /** Until so many edits are acknowledged of each document. */
  async edited({ client, count }) {
    const { edits, handles } = clients.get(client);
    for (const [url, edit] of edits) {
      await until(handles.get(url), ["remote-heads"], () => edit.acknowledged >= count, `edits of ${url}`);
    }
    return {};
  },
  async acknowledgements({ client }) {
    const told = [...clients.get(client).edits].map(([url, { made, acknowledged }]) => ({ url, made, acknowledged }));
    return { edits: told };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { op, id, ...request } = JSON.parse(line);
  const reply = (said) => process.stdout.write(`${JSON.stringify({ id, ...said })}\n`);
  operations[op](request).then(
    (said) => reply({ ok: true, ...said }),
    (error) => reply({ ok: false, error: String(error?.stack ?? error) }),
  );
}
process.exit(0);
