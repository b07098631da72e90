// A text in an Automerge document, which every window edits that has its link, with the server and without.
import { Repo, initializeWasm, isValidAutomergeUrl, updateText } from "@automerge/automerge-repo/slim";
import { WebSocketClientAdapter } from "@automerge/automerge-repo-network-websocket";
import { IndexedDBStorageAdapter } from "@automerge/automerge-repo-storage-indexeddb";
import wasm from "@automerge/automerge/automerge.wasm";

const RETRY_MS = 1_000;
const TEXT = ["text"];

// Another server, or one that wants a token: ?server=ws://HOST/automerge?token=TOKEN
const server = new URLSearchParams(location.search).get("server") ?? "ws://127.0.0.1:8080/automerge";

const part = (id) => document.getElementById(id);
const [area, status, copy, command] = ["text", "status", "copy", "command"].map(part);
part("server").textContent = server.split("?")[0];

await initializeWasm(fetch(wasm));
const socket = new WebSocketClientAdapter(server, RETRY_MS);
// What is typed without the server is kept by the browser, also when the window is closed.
const repo = new Repo({ network: [socket], storage: new IndexedDBStorageAdapter("seabed-automerge-page") });

/** The document, once it is known which. */
let handle;
/** The server's name for what it stores; null while there is no connection. */
let storage = null;
/** The heads of what this browser has stored. */
let kept = [];
/** Why there is no text. */
let failure = null;

const same = (ours, theirs) => theirs?.length === ours.length && ours.every((head) => theirs.includes(head));

/** Where the text is. The server names what it has, and it names nothing that is not on its disk. */
function whereabouts() {
  if (failure) return ["failed", failure];
  const heads = handle?.isReady() ? handle.heads() : null;
  if (!storage) {
    const here = heads && same(heads, kept);
    return here ? ["kept", "No server: kept in this browser"] : ["offline", "No server"];
  }
  if (!heads) return ["waiting", "Waiting for somebody who has this text"];
  const there = same(heads, handle.getSyncInfo(storage)?.lastHeads);
  return there ? ["stored", "On the server's disk"] : ["sending", "On its way to the server"];
}

function show() {
  [status.dataset.state, status.textContent] = whereabouts();
}

async function keep() {
  show();
  const heads = handle.heads();
  await repo.flush([handle.documentId]);
  // What came meanwhile has a call of its own.
  if (same(heads, handle.heads())) kept = heads;
  show();
}

/** Where a place in the text is after a change of others. */
const moved = (at, { action, path: [name, from], value, length = 1 }) => {
  if (name !== "text" || from === undefined || from >= at) return at;
  if (action === "splice") return at + value.length;
  return action === "del" ? Math.max(from, at - length) : at;
};

/** Puts the text of others into the window, and the caret back to the letter where it was. */
function receive({ doc, patches }) {
  if (area.value === doc.text) return;
  const [start, end] = [area.selectionStart, area.selectionEnd].map((at) => patches.reduce(moved, at));
  area.value = doc.text;
  area.setSelectionRange(start, end);
}

async function open() {
  const link = location.hash.slice(1);
  if (link && !isValidAutomergeUrl(link)) throw new Error("What follows the # of the address is no document");
  handle = link
    ? await repo.find(link, { allowableStates: ["ready", "unavailable"] })
    : repo.create({ text: "" });
  history.replaceState(null, "", `#${handle.url}`);
  command.textContent = `seabed docs show ${handle.documentId}`;
  copy.disabled = false;
  handle.on("remote-heads", show);
  show();
  await handle.whenReady();
  if (typeof handle.doc().text !== "string") throw new Error("This document has no text");
  handle.on("change", receive);
  handle.on("heads-changed", keep);
  area.value = handle.doc().text;
  area.disabled = false;
  area.focus();
  await keep();
}

socket.on("peer-candidate", ({ peerMetadata }) => {
  storage = peerMetadata.storageId;
  show();
});
socket.on("peer-disconnected", () => {
  storage = null;
  show();
});
area.addEventListener("input", () => handle.change((doc) => updateText(doc, TEXT, area.value)));
copy.addEventListener("click", async () => {
  await navigator.clipboard.writeText(location.href);
  copy.textContent = "Copied";
});
addEventListener("hashchange", () => location.reload());

show();
open().catch((error) => {
  failure = error.message;
  show();
});
