// What the README calls "yours": here a sync that does as its project's name says.
export interface Job { projectId: string; direction: "to_github" | "from_github" }

const tries = new Map<string, number>();

export async function sync(
  job: Job, progress: (percent: number, message: string) => void, signal: AbortSignal | undefined,
): Promise<{ filesChanged: number }> {
  for (const percent of [0, 25, 50, 75, 100]) progress(percent, `at ${percent}`);
  signal?.throwIfAborted();
  const tried = (tries.get(job.projectId) ?? 0) + 1;
  tries.set(job.projectId, tried);
  if (job.projectId === "breaks") throw Object.assign(new Error("Protected branch update failed"), { status: 403 });
  if (job.projectId === "limps" && tried < 2) throw Object.assign(new Error("Bad Gateway"), { status: 502, response: { headers: { "retry-after": "1" } } });
  return { filesChanged: 3 };
}
