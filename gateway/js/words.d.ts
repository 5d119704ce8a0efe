import type { ErrorCode, SyncFailed } from "./watch.js";

/** What to say of each error, and what to offer. */
export declare const WORDS: Readonly<Record<ErrorCode, readonly [say: string, offer: string]>>;
/** Of a failure; `offer` is what its `recoveryUrl` leads to, where it has one. */
export declare function explain(failure: Pick<SyncFailed, "error_code">): { say: string; offer: string };
