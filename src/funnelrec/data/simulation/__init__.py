"""A synthetic shop whose hesitations and substitutions are known.

The story, in the order in which it is drawn:

1. *Tastes.* Users and items are vectors of ``taste_dimensions``; an item is its category's vector
   plus a style of its own. Item popularity is log-normal (a long tail), so is user activity. Each
   item has a quality and a price, each user a budget relative to what a category usually costs.
2. *Needs.* A user feels needs over the days of the log, each for one category, chosen by taste.
   For a need the user meets items of the category (popular ones more often), considers a few,
   and wants the one that fits best: affinity plus quality plus chance.
3. *Price hesitation.* In ``hesitation_share`` of the needs the favourite is over the budget. The
   more the user wants it, the likelier the user waits and comes back to it; else it is given up
   (**weak interest**). Who waits may settle for an alternative within the budget, may buy the
   favourite days later (delayed conversion), or waits on: if the log ends first, the pair is a
   **hesitation**. What is glanced at beside a favourite that is not bought is weak interest.
4. *Substitution.* A purchase ends the need: every other item compared for it is **substituted**
   by the bought one, the favourite of someone who settled included. A favourite waited for whose
   user then buys another item of its category is substituted by that, too. So every substituted
   pair was touched for the last time before its competitor was bought.
5. *Funnel records.* The auxiliary behaviors of a purchased pair are drawn so that the share of
   purchases with a record of ``b`` is ``bar[b]`` (BAR) and the share without any record is
   ``direct_purchase_share`` (DT); RMBRec, Eq. 12. Other pairs record ``b`` with probability
   ``rate[b]``, the half-hearted ones less often for all but the weakest behavior. What leaves no
   record is not in the log. Weaker behaviors come before stronger ones, in visits that lead up to
   the wish or the purchase. How often a view repeats depends on the user's habit and hardly on
   the wish: counting does not tell hesitations from comparisons, tastes, purchases of the
   category and time do.
6. *Browsing*, nearly blind to taste and without a need, gives more **weak interest**; *accidents*,
   unrelated to taste, give **noise**: a share ``noise`` of the auxiliary events, all of the
   weakest behavior.

A pair plays one part, the first that applies of purchased, hesitation, substituted, weak interest
and noise; events that it would have from a lesser part are left out, which keeps the dials exact.
Every auxiliary event of a purchased pair lies before the purchase, except for later views of a
share ``after_purchase_views`` of the pairs, and except for the optional useless behavior, which is
recorded at random in every respect. Pairs known only by that or by accident are noise.
"""

from __future__ import annotations

from funnelrec.data.simulation._shared import (
    CONVERSION_DAYS,
    HESITATION,
    LABELS,
    NOISE,
    PURCHASED,
    START,
    SUBSTITUTED,
    WEAK_INTEREST,
)
from funnelrec.data.simulation.config import ShopConfig
from funnelrec.data.simulation.shop import SimulatedShop, check_simulating, simulate_shop

__all__ = [
    "CONVERSION_DAYS",
    "HESITATION",
    "LABELS",
    "NOISE",
    "PURCHASED",
    "START",
    "SUBSTITUTED",
    "WEAK_INTEREST",
    "ShopConfig",
    "SimulatedShop",
    "check_simulating",
    "simulate_shop",
]
