// A component's every state, shown by the package's fake gateway, under Vitest in a made-up DOM.
import { StrictMode, act } from "react";
import { createRoot } from "react-dom/client";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { fakeGateway } from "github-sync-events/testing";
import { useGitHubSyncs } from "github-sync-events/react";
import { Bar } from "./Bar.jsx";

globalThis.IS_REACT_ACT_ENVIRONMENT = true;
let gateway, root, box;

beforeEach(() => {
  gateway = fakeGateway();
  box = document.createElement("div");
  document.body.append(box);
  root = createRoot(box);
});

afterEach(async () => {
  await act(async () => root.unmount());
  expect(gateway.streams.size).toBe(0);
  gateway.close();
});

const show = (element) => act(async () => root.render(element));
const settled = (check) => vi.waitFor(async () => {
  await act(async () => {});
  check();
});

test("every state of a bar", async () => {
  await show(<Bar operationId={null} />);
  expect(box.textContent).toBe("Not started yet");
  expect(gateway.requests.length).toBe(0);
  await show(<Bar operationId="op-1" />);
  await settled(() => expect(box.firstChild.dataset.status).toBe("live"));
  gateway.started("op-1", { attempt: 2, attempts: 3 });
  gateway.progress("op-1", { percent: 30, message: "Pushing" });
  await settled(() => expect(box.textContent).toBe("Pushingattempt 2 of 3"));
  expect(box.querySelector("progress").value).toBe(30);
  gateway.stalled("op-1");
  await settled(() => expect(box.textContent).toContain("no word for a while"));
  gateway.conflict("op-1", { conflicts: ["a.txt", "b.txt"] });
  await settled(() => expect(box.querySelectorAll("li").length).toBe(2));
  gateway.failed("op-1", { error_code: "RATE_LIMIT", retryable: true });
  await settled(() => expect(box.textContent).toContain("GitHub's rate limit is reached, trying again"));
  gateway.completed("op-1", { filesChanged: 3, prUrl: "https://github.com/o/r/pull/1" });
  await settled(() => expect(box.textContent).toBe("3 files synced"));
});

test("a lost connection, and a refusal", async () => {
  await show(<Bar operationId="op-1" />);
  await settled(() => expect(box.firstChild.dataset.status).toBe("live"));
  gateway.refuse(503);
  gateway.drop();
  await settled(() => expect(box.firstChild.dataset.status).toBe("reconnecting"));
  gateway.refuse(403);
  await vi.waitFor(async () => {
    await act(async () => {});
    expect(box.textContent).toBe("Sign in (403)");
  }, 8000);
});

test("a token that is written inline renders no more often, and opens one stream for all", async () => {
  let renders = 0;
  const Page = () => {
    renders += 1;
    return <>{[..."abcdefghijklmnopqrst"].map((id) => <Bar key={id} operationId={id} token={() => "t"} />)}</>;
  };
  await show(<StrictMode><Page /></StrictMode>);
  await settled(() => expect(box.querySelectorAll("[data-status=live]").length).toBe(20));
  expect(gateway.requests.map((each) => each.headers.Authorization)).toEqual(["Bearer t"]);
  await show(<StrictMode><Page /></StrictMode>);
  for (let n = 0; n < 50; n++) gateway.progress("a", { percent: n });
  await settled(() => expect(box.querySelector("progress").value).toBe(49));
  expect(gateway.requests.length).toBe(1);
  expect(renders).toBeLessThan(10);
});

test("twenty bars of one operation that has ended are one request", async () => {
  gateway.started("op-1");
  gateway.completed("op-1", { filesChanged: 7 });
  await show(<>{Array.from({ length: 20 }, (_, n) => <Bar key={n} operationId="op-1" />)}</>);
  await settled(() => expect(box.textContent).toBe("7 files synced".repeat(20)));
  expect(gateway.requests.length).toBe(1);
});

test("another operationId shows nothing of the one before", async () => {
  gateway.started("op-1");
  gateway.progress("op-1", { message: "one" });
  await show(<Bar operationId="op-1" />);
  await settled(() => expect(box.textContent).toBe("one"));
  await show(<Bar operationId="op-2" />);
  expect(box.textContent).toBe("");
});

test("the first paint shows what the server knew", async () => {
  const initial = { type: "github_sync_progress", id: "1-0", terminal: false, stalled: false, data: { operationId: "op-1", projectId: "p-1", percent: 64, message: "Pushing" } };
  await show(<Bar operationId="op-1" initial={initial} />);
  expect(box.querySelector("progress").value).toBe(64);
});

test("the syncs of a project: those that run, the last that ended, and none that a gap took away", async () => {
  const List = () => <ol>{useGitHubSyncs({ projectId: "p-1", ended: 2 }).syncs.map((each) => <li key={each.key}>{each.operationId} {each.over ? "over" : each.percent}</li>)}</ol>;
  const lines = () => [...box.querySelectorAll("li")].map((each) => each.textContent);
  for (const id of ["a", "b", "c", "d"]) {
    gateway.started(id);
    if (id !== "d") gateway.completed(id);
  }
  gateway.started("x", { projectId: "p-2" });
  await show(<List />);
  await settled(() => expect(lines()).toEqual(["d 0", "c over", "b over"]));
  gateway.progress("d", { percent: 20 });
  gateway.started("e");
  await settled(() => expect(lines()).toEqual(["e 0", "d 20", "c over", "b over"]));
  gateway.completed("d");
  await settled(() => expect(lines()).toEqual(["e 0", "d over", "c over"]));
  gateway.reset();
  await settled(() => expect(lines()).toEqual([]));
  gateway.started("f");
  await settled(() => expect(lines()).toEqual(["f 0"]));
});
