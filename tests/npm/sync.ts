// What the README calls "yours": here a sync that does as its project's name says.
export interface Job { projectId: string; direction: "to_github" | "from_github" }

const tries = new Map<string, number>();

export async function sync(job: Job, progress: (percent: number, message: string) => void): Promise<{ filesChanged: number }> {
  for (const percent of [0, 25, 50, 75, 100]) progress(percent, `at ${percent}`);
  const tried = (tries.get(job.projectId) ?? 0) + 1;
  tries.set(job.projectId, tried);
  if (job.projectId === "breaks") throw Object.assign(new Error("Protected branch"), { error_code: "BRANCH_PROTECTED", retryable: false });
  if (job.projectId === "limps" && tried < 2) throw Object.assign(new Error("502"), { error_code: "UPSTREAM_UNAVAILABLE", retryable: true });
  return { filesChanged: 3 };
}

export function describe(error: unknown): { error_code: string; message: string; retryable: boolean } {
  const { error_code = "UNKNOWN", message = String(error), retryable = false } = error as Partial<ReturnType<typeof describe>>;
  return { error_code, message, retryable };
}
