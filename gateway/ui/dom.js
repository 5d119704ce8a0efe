// What every part of the page needs to show something. All text goes in as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function element(name, text, className = "") {
  return Object.assign(document.createElement(name), { textContent: text, className });
}

/** Only http(s): a link out of an event may say anything. */
export function link(anchor, url, text) {
  anchor.hidden = !/^https?:\/\//i.test(url ?? "");
  if (text) anchor.textContent = text;
  if (!anchor.hidden) Object.assign(anchor, { href: url, rel: "noreferrer noopener", target: "_blank" });
}

/** Milliseconds as minutes and seconds, or hours. */
export function clock(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000)), pad = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
  return hours ? `${hours}:${pad(minutes)}:${pad(seconds % 60)}` : `${minutes}:${pad(seconds % 60)}`;
}

export function ago(ms) {
  const minutes = Math.floor(Math.max(0, ms) / 60_000), hours = Math.floor(minutes / 60);
  return hours >= 48 ? `${Math.floor(hours / 24)} days ago` : hours ? `${hours} h ago` : minutes ? `${minutes} min ago` : "just now";
}

export function files(count) {
  return `${count} ${count === 1 ? "file" : "files"}`;
}
