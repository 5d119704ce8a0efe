// Made from gateway/schema.py and gateway/producer by `python -m tests.schema_json`.
export const TYPES = {
  "STARTED": "github_sync_started",
  "PROGRESS": "github_sync_progress",
  "CONFLICT": "github_sync_conflict",
  "COMPLETED": "github_sync_completed",
  "FAILED": "github_sync_failed"
};
export const REQUIRED = {
  "github_sync_started": [
    "direction"
  ],
  "github_sync_progress": [
    "message",
    "percent"
  ],
  "github_sync_conflict": [
    "conflicts",
    "strategy",
    "resolutionRequired"
  ],
  "github_sync_completed": [
    "status",
    "direction",
    "filesChanged",
    "duration"
  ],
  "github_sync_failed": [
    "status",
    "error_code",
    "message",
    "retryable"
  ]
};
export const ERROR_CODES = [
  "APP_NOT_INSTALLED",
  "BRANCH_PROTECTED",
  "NOT_FAST_FORWARD",
  "REPO_ARCHIVED",
  "FILE_TOO_LARGE",
  "APP_UNINSTALLED",
  "RATE_LIMIT",
  "INVALID_INSTALLATION",
  "INSUFFICIENT_PERMISSIONS",
  "UPSTREAM_UNAVAILABLE",
  "UNKNOWN"
];
export const RULES = [
  {
    "code": "RATE_LIMIT",
    "says": "GitHub's rate limit is reached",
    "phrases": [
      "rate limit",
      "abuse detection"
    ],
    "retryable": true
  },
  {
    "code": "RATE_LIMIT",
    "says": "GitHub's rate limit is reached",
    "statuses": [
      429
    ],
    "retryable": true
  },
  {
    "code": "REPO_ARCHIVED",
    "says": "The repository is archived and read-only",
    "phrases": [
      "archived"
    ]
  },
  {
    "code": "FILE_TOO_LARGE",
    "says": "A file is larger than GitHub accepts",
    "phrases": [
      "GH001",
      "large files? detected",
      "file size limit",
      "too large",
      "over 100 ?MB"
    ]
  },
  {
    "code": "FILE_TOO_LARGE",
    "says": "A file is larger than GitHub accepts",
    "statuses": [
      413
    ]
  },
  {
    "code": "BRANCH_PROTECTED",
    "says": "The branch is protected",
    "phrases": [
      "GH006",
      "GH013",
      "protected branch",
      "rule violations",
      "made through a pull request",
      "required status check"
    ]
  },
  {
    "code": "NOT_FAST_FORWARD",
    "says": "The branch has moved on meanwhile",
    "phrases": [
      "not a fast.?forward",
      "non-fast-forward",
      "fetch first",
      "tip of your current branch is behind",
      "cannot lock ref",
      "is at [0-9a-f]{7,} but expected",
      "reference cannot be updated",
      "does not match [0-9a-f]{7,}"
    ],
    "retryable": true
  },
  {
    "code": "NOT_FAST_FORWARD",
    "says": "The branch has moved on meanwhile",
    "statuses": [
      409
    ],
    "retryable": true
  },
  {
    "code": "INVALID_INSTALLATION",
    "says": "The GitHub App's installation is suspended",
    "phrases": [
      "suspended"
    ]
  },
  {
    "code": "APP_UNINSTALLED",
    "says": "The GitHub App was uninstalled",
    "phrases": [
      "installation .{0,40}(deleted|removed|not found|no longer)",
      "could not find installation",
      "integration not found",
      "app .{0,20}uninstalled"
    ]
  },
  {
    "code": "APP_UNINSTALLED",
    "says": "The GitHub App was uninstalled",
    "phrases": [
      "access_tokens",
      "access-token-for-an-app"
    ],
    "statuses": [
      404
    ]
  },
  {
    "code": "APP_NOT_INSTALLED",
    "says": "The GitHub App has no access to this repository",
    "phrases": [
      "repository not found",
      "repository .{0,200}not found",
      "not installed"
    ]
  },
  {
    "code": "INSUFFICIENT_PERMISSIONS",
    "says": "The GitHub App lacks a permission that this needs",
    "phrases": [
      "not accessible by (integration|personal access token)",
      "permission to .{0,200} denied",
      "write access to repository not granted",
      "must have (admin|push|write)",
      "refusing to allow a GitHub App"
    ]
  },
  {
    "code": "INVALID_INSTALLATION",
    "says": "The GitHub App's token is not accepted",
    "phrases": [
      "bad credentials",
      "authentication failed",
      "invalid username or",
      "could not read (username|password)",
      "JSON web token",
      "token .{0,20}expired"
    ]
  },
  {
    "code": "INVALID_INSTALLATION",
    "says": "The GitHub App's token is not accepted",
    "statuses": [
      401
    ]
  },
  {
    "code": "UPSTREAM_UNAVAILABLE",
    "says": "GitHub can't be reached",
    "phrases": [
      "could not resolve host",
      "name resolution",
      "getaddrinfo",
      "timed? ?out",
      "connection (was )?(refused|reset|closed|aborted)",
      "early eof",
      "hung up unexpectedly",
      "unexpected disconnect",
      "network is unreachable",
      "HTTP 5\\d\\d",
      "returned error: 5\\d\\d",
      "failed to connect",
      "ssl.{0,20}(error|eof)",
      "internal server error",
      "bad gateway",
      "service unavailable"
    ],
    "retryable": true
  },
  {
    "code": "APP_NOT_INSTALLED",
    "says": "The GitHub App has no access to this repository",
    "statuses": [
      404
    ]
  },
  {
    "code": "INSUFFICIENT_PERMISSIONS",
    "says": "GitHub forbids this",
    "statuses": [
      403
    ]
  }
];
export const ID_MAX_LENGTH = 256;
export const ROOM = 63488;
export const SIZES = [
  [
    2000,
    200
  ],
  [
    500,
    50
  ],
  [
    100,
    10
  ]
];
export const STOPPED = {
  "error": "The sync was stopped before its end",
  "error_code": "UNKNOWN",
  "retryable": false
};
export const MIN_POINTS = 5;
export const MIN_SECONDS = 1.0;
export const BATCH = 200;
export const CHAIN_MAX = 20;
export const DEPTH_MAX = 4;
export const TEXT_MAX = 2000;
export const LIST_MAX = 200;
