// What the JavaScript kit makes of the inputs in ../testdata/kit, as JSON; tests/kit_vectors.py is the same for the one in Python.
import assert from "node:assert";
import { readFileSync } from "node:fs";

const from = (name) => import(new URL(`../../gateway/js/producer/${name}.js`, import.meta.url));
const [{ Attempt }, { githubError }, { clean }] = await Promise.all(["attempt", "errors", "text"].map(from));
const EPOCH = 1764000000; // what the clocks say when a series begins, in seconds

function series({ sync, calls }) {
  const found = [];
  let at = 0;
  const emit = ({ fields }) => {
    const entry = {};
    for (let index = 0; index < fields.length; index += 2) entry[fields[index]] = fields[index + 1];
    const { run, ...data } = JSON.parse(entry.data);
    assert(run.length > 0 && run.length <= 64);
    assert.equal(entry.timestamp, data.timestamp);
    assert.equal(entry.buildId, `github-${data.projectId}`);
    return found.push([entry.type, data]);
  };
  const named = { operationId: "op-1", projectId: "p-1", direction: "to_github", ...sync };
  const attempt = new Attempt(named, emit, () => at, () => EPOCH * 1000 + at);
  for (const [after, call, ...words] of calls) {
    at = after;
    attempt[call](...words);
  }
  return found;
}

function thrown({ message, errors, cause, stderr, status, headers = {}, body }) {
  const options = cause && { cause: thrown(cause) };
  const error = errors ? new AggregateError(errors.map(thrown), message, options) : new Error(message, options);
  if (stderr !== undefined) error.stderr = stderr;
  if (status !== undefined) Object.assign(error, { status, response: { status, headers, data: body } });
  return error;
}

function expanded(value) {
  if (Array.isArray(value)) return value.map(expanded);
  if (typeof value !== "object" || value === null) return value;
  if ("repeat" in value) return value.repeat.repeat(value.times) + value.then;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, expanded(each)]));
}

const kinds = {
  series,
  errors: ({ thrown: shape }) => githubError(thrown(shape), { appSlug: "my-app", step: "push", now: EPOCH }),
  texts: ({ text }) => clean(text),
};
const found = {};
for (const [kind, made] of Object.entries(kinds)) {
  const cases = JSON.parse(readFileSync(new URL(`../testdata/kit/${kind}.json`, import.meta.url), "utf8"));
  found[kind] = cases.map((each) => made(expanded(each)));
}
console.log(JSON.stringify(found));
