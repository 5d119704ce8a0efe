/**
 * The standard error of whatever a sync died of: one table, by duck typing, so that no client library is imported.
 *
 * Serves Octokit's RequestError, fetch, axios, got, child processes and simple-git, with their causes and what an
 * AggregateError holds. Status codes and messages are those of GitHub's REST documentation and of its git server.
 */
import { clean } from "./text.js";
import { CHAIN_MAX, RULES } from "./vocabulary.js";

const said = (code) => RULES.find((rule) => rule.code === code).says;
const LIMIT = said("RATE_LIMIT"), AWAY = said("UPSTREAM_UNAVAILABLE");
const COMPILED = RULES.map((rule) => ({ ...rule, pattern: new RegExp((rule.phrases ?? []).join("|"), "i") }));
const NETWORK =
  /^(ECONN\w+|ETIMEDOUT|ENOTFOUND|EAI_\w+|EPIPE|EHOSTUNREACH|ENET\w+|EPROTO|ESOCKETTIMEDOUT|ERR_SSL\w*|UND_ERR_\w+)$/;
const NAMES = /Timeout|FetchError|NetworkError|ConnectError|SocketError|RequestError/;
const INSTALL = new Set(["APP_NOT_INSTALLED", "APP_UNINSTALLED"]);
const SETTINGS = new Set(["INSUFFICIENT_PERMISSIONS", "INVALID_INSTALLATION", ...INSTALL]);

/**
 * `{ error, error_code, retryable }`, and where they apply `retryAfter` (s), `recoveryUrl`, `details`. Never throws,
 * whatever it is given; tokens are redacted. `now`: epoch seconds, for X-RateLimit-Reset.
 */
export function githubError(thrown, { baseUrl = "https://github.com", appSlug, step, now = Date.now() / 1000 } = {}) {
  const looked = chain(thrown).map(look);
  const found = looked.find((each) => each.code !== "UNKNOWN") ?? looked[0];
  const error = { error: found.says, error_code: found.code, retryable: found.retryable };
  const after = found.retryable ? retryAfter(found.headers, now) : undefined;
  if (after !== undefined) error.retryAfter = after;
  const base = baseUrl.replace(/\/+$/, "");
  if (INSTALL.has(found.code) && appSlug) error.recoveryUrl = `${base}/apps/${appSlug}/installations/new`;
  else if (SETTINGS.has(found.code)) error.recoveryUrl = `${base}/settings/installations`;
  error.details = { originalError: clean(found.text), ...(step ? { step } : {}) };
  return error;
}

/** What was thrown, what it holds, and what it was thrown for. */
function chain(thrown) {
  const found = [], waiting = [thrown];
  while (waiting.length && found.length < CHAIN_MAX) {
    const each = waiting.shift();
    if (found.includes(each)) continue;
    found.push(each);
    try {
      if (Array.isArray(each?.errors)) waiting.push(...each.errors.slice(0, CHAIN_MAX));
      if (each?.cause !== undefined && each.cause !== null) waiting.push(each.cause);
    } catch { /* a foreign getter that throws: there is nothing behind it */ }
  }
  return found;
}

function look(thrown) {
  try {
    const status = statusOf(thrown), headers = headersOf(thrown), text = textOf(thrown);
    return { headers, text, ...classify(thrown, status, headers, text) };
  } catch (odd) {
    const text = `${typeof thrown} (${odd?.name} while reading it)`;
    return { headers: {}, text, code: "UNKNOWN", retryable: false, says: `The sync failed: ${text}` };
  }
}

function classify(thrown, status, headers, text) {
  if ((status === 403 || status === 429) && (headers["x-ratelimit-remaining"] === "0" || "retry-after" in headers)) {
    return { code: "RATE_LIMIT", retryable: true, says: LIMIT };
  }
  if (status >= 500) return { code: "UPSTREAM_UNAVAILABLE", retryable: true, says: "GitHub has trouble of its own" };
  for (const { code, says, statuses, retryable = false, pattern } of COMPILED) {
    if ((!statuses || statuses.includes(status)) && pattern.test(text)) return { code, says, retryable };
  }
  const name = String(thrown?.name ?? typeof thrown);
  const network = NETWORK.test(thrown?.code ?? "") || NAMES.test(name) || /^fetch failed$/.test(text);
  if (status === undefined && network) return { code: "UPSTREAM_UNAVAILABLE", retryable: true, says: AWAY };
  const line = clean(text).trim().split(/\r?\n/)[0].slice(0, 200);
  return { code: "UNKNOWN", retryable: false, says: `The sync failed: ${line || name}` };
}

function statusOf(thrown) {
  for (const holder of [thrown?.response, thrown]) {
    for (const name of ["status", "statusCode", "status_code", "code"]) {
      const value = holder?.[name];
      if (Number.isInteger(value) && value >= 100 && value <= 599) return value;
    }
  }
  return undefined;
}

function headersOf(thrown) {
  const headers = thrown?.response?.headers ?? thrown?.headers;
  if (!headers) return {};
  const pairs = typeof headers.entries === "function" ? [...headers.entries()] : Object.entries(headers);
  return Object.fromEntries(pairs.map(([name, value]) => [String(name).toLowerCase(), String(value)]));
}

/** What it says, what GitHub's body says, and what git wrote, one after the other. */
function textOf(thrown) {
  if (typeof thrown !== "object" || thrown === null) return String(thrown);
  const { response } = thrown;
  const parts = [typeof thrown.message === "string" ? thrown.message : ""];
  for (let value of [thrown.data, thrown.stderr, thrown.output, response?.data, response?.text, response?.body]) {
    if (value instanceof Uint8Array) value = new TextDecoder().decode(value);
    else if (typeof value === "object" && value !== null) value = JSON.stringify(value);
    if (typeof value === "string" && value && !parts[0].includes(value)) parts.push(value);
  }
  return parts.filter(Boolean).join("\n") || String(thrown.name ?? "Error");
}

function retryAfter(headers, now) {
  const after = headers["retry-after"] ?? "", reset = headers["x-ratelimit-reset"] ?? "";
  if (/^\d+$/.test(after)) return Number(after);
  if (/^\d+$/.test(reset)) return Math.max(1, Number(reset) - Math.floor(now));
  return undefined;
}
