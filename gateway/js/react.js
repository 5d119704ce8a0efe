/**
 * useGitHubSync(operationId, options?) -> { status, percent, message, conflict, error, result, stalled, attempt, attempts }
 *
 * `attempt` of `attempts` is where the sync's queue is with it, as far as its worker tells. `status` is the watcher's; `error` a SyncFailed, `result` a SyncCompleted, `conflict` the newest SyncConflict.
 */
import { useEffect, useReducer } from "react";
import { watch } from "./watch.js";

const NOTHING = {
  status: "connecting", percent: 0, message: "", conflict: null, error: null, result: null, stalled: false,
  attempt: null, attempts: null,
};

export function reduce(state, event) {
  const next = step(state, event);
  return event.attempt === undefined ? next : { ...next, attempt: event.attempt, attempts: event.attempts ?? null };
}

function step(state, event) {
  switch (event.type) {
    case "status":
      return { ...state, status: event.status };
    case "reset":
      return NOTHING;
    case "operation_stalled":
      return { ...state, stalled: true };
    case "github_sync_started":
      return { ...NOTHING, status: state.status };
    case "github_sync_progress":
      return { ...state, stalled: false, error: null, percent: event.percent, message: event.message };
    case "github_sync_conflict":
      return { ...state, stalled: false, conflict: event };
    case "github_sync_completed":
      return { ...state, stalled: false, error: null, percent: 100, result: event };
    case "github_sync_failed":
      return { ...state, stalled: false, error: event };
    default:
      return state;
  }
}

export function useGitHubSync(operationId, options = {}) {
  const { baseUrl, token, withCredentials, releaseHidden } = options;
  const [state, dispatch] = useReducer(reduce, NOTHING);
  useEffect(() => {
    dispatch({ type: "reset" });
    if (!operationId) return undefined;
    let closed = false;
    const watcher = watch({
      operationId, baseUrl, token, withCredentials, releaseHidden,
      onEvent: dispatch,
      onStatus: (status) => closed || dispatch({ type: "status", status }),
    });
    return () => {
      closed = true;
      watcher.close();
    };
  }, [operationId, baseUrl, token, withCredentials, releaseHidden]);
  return state;
}
