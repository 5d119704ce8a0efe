// On a server, as Next.js does it: no window, no EventSource; imported, prerendered, no request made.
import assert from "node:assert/strict";
import { createElement } from "react";
import { renderToString } from "react-dom/server";

globalThis.fetch = () => assert.fail("a request while prerendering");
const [entry, { useGitHubSync, useGitHubSyncs }, { readFile }] = await Promise.all([
  import("github-sync-events"), import("github-sync-events/react"), import("node:fs/promises"),
]);
assert.equal(typeof entry.watch, "function");
assert.match(await readFile(new URL(import.meta.resolve("github-sync-events/react")), "utf8"), /^"use client";/);

const initial = { type: "github_sync_progress", id: "1-0", terminal: false, stalled: false, data: { operationId: "op-1", projectId: "p-1", percent: 64 } };
const Bar = () => createElement("progress", { value: useGitHubSync("op-1", { initial }).percent });
const List = () => createElement("ol", null, useGitHubSyncs({ projectId: "p-1", initial: { id: "1-0", operations: [initial] } }).syncs.length);
console.log(renderToString(createElement(Bar)) + renderToString(createElement(List)));
