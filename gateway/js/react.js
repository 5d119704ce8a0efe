"use client";
/**
 * useGitHubSync(operationId, options) -> { status, detail, percent, message, step, conflict, error, result, … }
 * useGitHubSyncs({ projectId, ended, … }) -> { status, detail, syncs }
 *
 * See react.d.ts. All hooks of one `baseUrl` share one stream; `token` may be written inline.
 */
import { useCallback, useEffect, useMemo, useRef, useSyncExternalStore } from "react";
import { NONE, NOTHING, fromState, fromStates, reduce, reduceAll, sure, unsure } from "./sync.js";
import { watch } from "./watch.js";

/** Watches what `wanted` says (null: nothing), and keeps what `reducer` makes of it. */
function useWatched(wanted, begin, reducer, { baseUrl, token, account, withCredentials, releaseHidden }) {
  const newest = useRef(token);
  useEffect(() => {
    newest.current = token;
  });
  const fixed = typeof token === "function" ? "function" : token;
  const key = JSON.stringify([wanted, baseUrl, fixed, account, withCredentials, releaseHidden]);
  const store = useMemo(() => ({ shown: { status: wanted ? "connecting" : "idle", detail: null, ...begin() } }), [key]); // eslint-disable-line react-hooks/exhaustive-deps
  const get = useCallback(() => store.shown, [store]);
  const subscribe = useCallback((changed) => {
    if (wanted === null) return () => {};
    let open = true;
    const show = (message) => {
      if (!open) return;
      store.shown = { ...store.shown, ...reducer(store.shown, message) };
      changed();
    };
    const watcher = watch({
      ...wanted, baseUrl, account, withCredentials, releaseHidden,
      token: fixed === "function" ? () => newest.current() : token,
      onEvent: (event) => show({ event }),
      onGap: (gap) => show({ gap }),
      onStatus: (status, detail = null) => show({ status, detail }),
    });
    return () => {
      open = false;
      watcher.close();
    };
  }, [store]); // eslint-disable-line react-hooks/exhaustive-deps
  return useSyncExternalStore(subscribe, get, get);
}

export function useGitHubSync(operationId, options = {}) {
  const { projectId, initial } = options;
  const begin = () => (initial ? fromState(initial) : NOTHING);
  const reducer = (sync, { event, status, detail }) => (event ? reduce(sync, event) : status ? { status, detail } : {});
  return useWatched(operationId ? { operationId, projectId } : null, begin, reducer, options);
}

export function useGitHubSyncs(options = {}) {
  const { projectId, ended = 20, initial } = options;
  const begin = () => (initial ? fromStates(initial, ended) : NONE);
  const reducer = (all, { event, gap, status, detail }) => {
    if (event) return reduceAll(all, event, ended);
    if (gap) return unsure(all);
    return { status, detail, ...(status === "live" && sure(all)) };
  };
  const { status, detail, syncs } = useWatched(projectId === null ? null : { projectId, ended }, begin, reducer, options);
  return useMemo(() => ({ status, detail, syncs }), [status, detail, syncs]);
}
