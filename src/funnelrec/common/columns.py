"""The column names of every frame that funnelrec takes or gives, in one place."""

USER = "user_id"
ITEM = "item_id"
BEHAVIOR = "behavior"
TIMESTAMP = "timestamp"
SCORE = "score"
RANK = "rank"
REASON = "reason"
