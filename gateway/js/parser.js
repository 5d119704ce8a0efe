/** The blocks of an event stream, out of bytes cut anywhere (WHATWG HTML, section 9.2.6). */
export class Parser {
  #decoder = new TextDecoder();
  #rest = "";
  #block = {};

  /** Yields each block that these bytes complete: what it has of `id`, `type`, `data` and `retry`. */
  *push(bytes) {
    const lines = (this.#rest + this.#decoder.decode(bytes, { stream: true })).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line) this.#field(line);
      else {
        const block = this.#block;
        this.#block = {};
        if (Object.keys(block).length) yield block;
      }
    }
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    const block = this.#block;
    if (name === "data") block.data = block.data === undefined ? value : `${block.data}\n${value}`;
    else if (name === "event") block.type = value;
    else if (name === "id" && !value.includes("\0")) block.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) block.retry = Number(value);
  }
}
