import { useGitHubSync } from "github-sync-events/react";
import { explain } from "github-sync-events/words";

export function Bar({ operationId, ...options }) {
  const { status, detail, percent, message, conflict, error, result, stalled, attempt, attempts } = useGitHubSync(operationId, options);
  if (status === "idle") return <p>Not started yet</p>;
  if (status === "refused") return <p>Sign in ({detail})</p>;
  if (result) return <a href={result.prUrl}>{result.filesChanged} files synced</a>;
  return (
    <div data-status={status}>
      <progress value={percent} max={100} />
      <span>{stalled ? "no word for a while" : message}</span>
      {attempts > 1 && <em>attempt {attempt} of {attempts}</em>}
      {conflict && <ul>{conflict.conflicts.map((path) => <li key={path}>{path}</li>)}</ul>}
      {error && <strong>{explain(error).say}{error.retryable && ", trying again"}</strong>}
    </div>
  );
}
