"""What stands where in a cache folder."""

PROMPTS, REPLIES, JOURNALS, LEDGER, LOCK_COPIES, LOCKS = "prompts", "replies", "journals", "ledger.jsonl", "lock", "locks"
REPORTS, LOOKS, CAPTURES, SEARCHES, PLANS = "reports", "looks.jsonl", "captures", "searches", "plans"
CANARIES = "canaries"
REGISTRY = "registry"

REPORT_SUFFIX = ".jsonl"
