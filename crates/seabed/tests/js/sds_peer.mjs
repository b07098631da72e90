// A participant of the published @waku/sds, driven by JSON lines: a request a line on stdin, a reply a line on stdout.
// The clock stands still unless it is moved, so that a test decides what is due.
import { createInterface } from "node:readline";
import { Message, MessageChannel, MessageChannelEvent } from "@waku/sds";

let now = 0;
Date.now = () => now;

let channel;
let seen = [];

const names = {
  [MessageChannelEvent.InMessageDelivered]: "delivered",
  [MessageChannelEvent.OutMessageAcknowledged]: "acknowledged",
  [MessageChannelEvent.OutMessagePossiblyAcknowledged]: "possibly_acknowledged",
  [MessageChannelEvent.InMessageMissing]: "missing_dependencies",
  [MessageChannelEvent.InSyncReceived]: "sync_received",
};

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const events = () => seen.splice(0);

const operations = {
  init({ channel: id, participant, now: start, repair }) {
    now = start;
    channel = new MessageChannel(id, participant, { causalHistorySize: 10, repairConfig: repair });
    for (const [type, event] of Object.entries(names)) {
      channel.addEventListener(type, ({ detail }) => {
        if (event === "missing_dependencies" && detail.length === 0) return;
        const ids = Array.isArray(detail) ? detail.map((entry) => entry.messageId) : [detail.messageId ?? detail];
        seen.push({ event, message_ids: ids });
      });
    }
    return {};
  },
  advance({ ms }) {
    now += ms;
    return { now };
  },
  async send({ content }) {
    let wire;
    let id;
    channel.pushOutgoingMessage(Buffer.from(content, "hex"), async (message) => {
      [wire, id] = [hex(message.encode()), message.messageId];
      return { success: true };
    });
    await channel.processTasks();
    return { wire, message_id: id, events: events() };
  },
  async recv({ wire }) {
    const message = Message.decode(Buffer.from(wire, "hex"));
    if (!message) return { ok: false };
    channel.pushIncomingMessage(message, undefined);
    await channel.processTasks();
    // The library delivers what waited only when it is swept.
    channel.sweepIncomingBuffer();
    return { message_id: message.messageId, events: events() };
  },
  async sync() {
    let wire = null;
    await channel.pushOutgoingSyncMessage(async (message) => {
      wire = hex(message.encode());
      return true;
    });
    return { wire, events: events() };
  },
  async tick() {
    const due = await channel.sweepRepairIncomingBuffer();
    const { unacknowledged, possiblyAcknowledged } = channel.sweepOutgoingBuffer();
    return {
      repairs: due.map((message) => hex(message.encode())),
      unacknowledged: [...unacknowledged, ...possiblyAcknowledged].map((message) => message.messageId),
      events: events(),
    };
  },
  log() {
    return { log: channel.localHistory.slice(0).map((message) => [message.messageId, hex(message.content)]) };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  let reply;
  try {
    const request = JSON.parse(line);
    reply = { ok: true, ...(await operations[request.op](request)) };
  } catch (error) {
    reply = { ok: false, message: String(error?.stack ?? error) };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
