// The framing against a reading of the specification that takes the whole text at once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Parser } from "../../gateway/js/parser.js";

const TEXTS = [
  "id: 1-0\nevent: a\ndata: {\"x\":\"é😀\"}\n\n",
  "retry: 10\r\ndata: a\r\ndata: b\r\n\r\ndata:c\r\rid\n\n",
  ": comment\n\ndata\n\n\n\nid: a\0b\ndata: x\n\nretry: 1x\ndata: y\n\nunknown: 1\n\n",
  "\uFEFFdata: bom\n\ndata: no end",
];

function whole(text) {
  const blocks = [];
  for (const chunk of text.replace(/^\uFEFF/, "").replaceAll("\r\n", "\n").replaceAll("\r", "\n").split("\n\n").slice(0, -1)) {
    const block = {};
    for (const line of chunk.split("\n")) {
      const [, name, value] = /^([^:]*):? ?([^]*)$/.exec(line);
      if (name === "data") block.data = "data" in block ? `${block.data}\n${value}` : value;
      if (name === "event") block.type = value;
      if (name === "id" && !value.includes("\0")) block.id = value;
      if (name === "retry" && /^\d+$/.test(value)) block.retry = Number(value);
    }
    if (Object.keys(block).length) blocks.push(block);
  }
  return blocks;
}

test("blocks, wherever their bytes are cut", () => {
  for (const text of TEXTS) {
    const bytes = new TextEncoder().encode(text), wanted = whole(text);
    assert.ok(wanted.length);
    for (let one = 0; one <= bytes.length; one++) {
      for (let two = one; two <= bytes.length; two += 7) {
        const parser = new Parser();
        const blocks = [bytes.subarray(0, one), bytes.subarray(one, two), bytes.subarray(two)].flatMap((part) => [...parser.push(part)]);
        assert.deepEqual(blocks, wanted);
      }
    }
  }
});
