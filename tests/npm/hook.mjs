// useGitHubSync in real React against a real gateway: prints every state that the hook gives, as JSON lines.
globalThis.IS_REACT_ACT_ENVIRONMENT = false;
const { createElement } = await import("react");
const { create } = await import("react-test-renderer");
const { useGitHubSync } = await import("github-sync-events/react");

const [baseUrl, operationId] = process.argv.slice(2);
function Bar() {
  const state = useGitHubSync(operationId, { baseUrl });
  console.log(JSON.stringify(state));
  if (state.status === "ended") setTimeout(() => process.exit(0), 50);
  return null;
}
create(createElement(Bar));
setTimeout(() => process.exit(1), 20_000);
