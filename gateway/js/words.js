/** What to say of a failed sync, and what to offer, by its `error_code`. */
export const WORDS = Object.freeze({
  APP_NOT_INSTALLED: ["The GitHub App is not installed on this repository", "Install it"],
  APP_UNINSTALLED: ["The GitHub App was uninstalled", "Install it again"],
  INVALID_INSTALLATION: ["The installation is suspended, or its token is not accepted", "Open the installation's settings"],
  INSUFFICIENT_PERMISSIONS: ["The App lacks a permission", "Accept the new permissions"],
  BRANCH_PROTECTED: ["The branch is protected", "Sync by pull request"],
  NOT_FAST_FORWARD: ["The branch has moved on meanwhile", "Sync again: it takes the new commits in first"],
  REPO_ARCHIVED: ["The repository is archived", "Unarchive it on GitHub"],
  FILE_TOO_LARGE: ["A file is larger than GitHub accepts", "Keep it in Git LFS"],
  RATE_LIMIT: ["GitHub's rate limit is reached", ""],
  UPSTREAM_UNAVAILABLE: ["GitHub can't be reached", ""],
  UNKNOWN: ["The sync failed", "Try again"],
});

/** `{ say, offer }` for a failure; `offer` is what its `recoveryUrl` leads to, where it has one. */
export function explain({ error_code: code }) {
  const [say, offer] = WORDS[Object.hasOwn(WORDS, code) ? code : "UNKNOWN"];
  return { say, offer };
}
