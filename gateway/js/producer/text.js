/** What a worker's words become before they leave it: without secrets, encodable, bounded. Pure; never throws. */
import { DEPTH_MAX, LIST_MAX, TEXT_MAX } from "./vocabulary.js";

const TOKENS = [
  [/(https?:\/\/)[^/\s@'"]+@/g, "$1***@"],
  [/(https?%3A%2F%2F)(?:[^\s/%]|%(?!40|2F))+%40/gi, "$1***%40"],
  [/(?:gh[pousr]_|github_pat_)\w+/g, "***"],
  [/\b(bearer|token|basic)\s+[\w.~+/=-]{8,}/gi, "$1 ***"],
];
const KEY = /-----(BEGIN|END) [A-Z ]{1,40}-----/g;

/**
 * `text` without secrets: user info of URLs, GitHub's token forms, Authorization values, JWTs, PEM blocks. In time linear in
 * its length.
 */
export function redact(text) {
  for (const [pattern, replacement] of TOKENS) text = text.replace(pattern, replacement);
  if (text.includes("eyJ")) text = text.replace(/[\w.-]+/g, withoutJwt);
  return text.includes("-----BEGIN ") ? withoutKeys(text) : text;
}

/** Anything as text that can be shown and encoded: redacted, cut, lone surrogates as U+FFFD. */
export function clean(value, most = TEXT_MAX) {
  let said;
  try {
    said = String(value instanceof Error ? value.message : value);
  } catch (error) { // a toString of somebody else's
    said = `${typeof value} (${error?.name} while reading it)`;
  }
  // Cut before it is redacted a secret could lose the beginning that tells; what is far longer is not looked at.
  const looked = head(said, most * 8);
  const shown = redact(looked.toWellFormed());
  const cut = head(shown, most);
  return cut === shown && looked === said ? shown : `${head(shown, most - 1)}…`;
}

/** An id that the gateway accepts: a queue may number its jobs, a file system has names that are no text. */
export function identifier(value, most) {
  return head(String(value).toWellFormed().replace(/[\x00-\x1f\x7f-\x9f]/g, "\ufffd"), most);
}

/** Anything as JSON has it, with texts and lists of bounded length; `null` is what can't be said. */
export function plain(value, texts = TEXT_MAX, items = LIST_MAX, depth = 0) {
  if (value === null || value === undefined || typeof value === "boolean") return value ?? null;
  if (typeof value === "bigint") return plain(Number(value));
  if (typeof value === "number") {
    return !Number.isFinite(value) || (Number.isInteger(value) && !Number.isSafeInteger(value)) ? null : value;
  }
  try {
    if (value instanceof Uint8Array) value = new TextDecoder().decode(value);
    if (value instanceof Date) value = value.toISOString();
    if (typeof value !== "object" || value instanceof Error || depth >= DEPTH_MAX) return clean(value, texts);
    if (Symbol.iterator in value && !(value instanceof Map)) {
      const list = [];
      for (const each of value) {
        if (list.length === items) break;
        list.push(plain(each, texts, items, depth + 1));
      }
      return list;
    }
    const pairs = value instanceof Map ? [...value] : Object.entries(value);
    return Object.fromEntries(
      pairs.slice(0, items).map(([name, each]) => [clean(name, 100), plain(each, texts, items, depth + 1)]),
    );
  } catch (error) {
    return `${typeof value} (${error?.name} while reading it)`;
  }
}

/** The first `most` characters, as Unicode counts them. */
function head(text, most) {
  if (text.length <= most) return text;
  let at = 0;
  for (let count = 0; count < most && at < text.length; count += 1) at += text.codePointAt(at) > 0xffff ? 2 : 1;
  return text.slice(0, at);
}

/** A word without what is shaped like a JWT in it, which always begins with `{"` in base64. */
function withoutJwt(word) {
  const begin = word.indexOf("eyJ");
  if (begin < 0) return word;
  const first = word.indexOf(".", begin);
  return first >= 0 && word.indexOf(".", first + 1) >= 0 ? `${word.slice(0, begin)}***` : word;
}

function withoutKeys(text) {
  let kept = "", at = 0, inside = false;
  for (const mark of text.matchAll(KEY)) {
    if (mark[1] === "BEGIN" && !inside) {
      kept += `${text.slice(at, mark.index)}***`;
      inside = true;
    } else if (mark[1] === "END" && inside) {
      at = mark.index + mark[0].length;
      inside = false;
    }
  }
  return inside ? kept : kept + text.slice(at);
}
