"""Figures that papers print, and when one of them may stand beside a figure of ours.

Data are known by what is counted in them, not by a name somebody gave them: users, items, pairs
of each behavior and held-out pairs must be those of the catalogue. The protocol is known by its
record. Where either differs, nothing is shown, and :func:`why_not` says what differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from funnelrec.data.catalogue import compare_with_catalogue, named_datasets
from funnelrec.data.dataset import Dataset
from funnelrec.evaluation.protocol import Protocol

RMBREC, CHARM = "RMBRec (WWW 2026)", "CHARM (SIGIR 2026)"
_METRICS = ("hr@10", "ndcg@10", "hr@20", "ndcg@20")


@dataclass(frozen=True)
class Published:
    """One row of a printed table, on one data set.

    Parameters
    ----------
    model
        Our name of the model, whether this version has it or not.
    values
        Printed metrics.
    paper, table
        Where they are printed.
    datasets
        Catalogue names of the files they belong to.
    variant
        Name of the ablation, if the row is one.
    refit
        Whether the printed model trained on validation pairs, too; None if the paper does not
        say.
    note
        What to know of the row.
    """

    model: str
    values: Mapping[str, float]
    paper: str
    table: str
    datasets: tuple[str, ...]
    variant: str | None = None
    refit: bool | None = None
    note: str = ""

    @property
    def source(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.table}"


# Rows without views also stand for files without views, where a model reads purchases alone.
_TAOBAO, _TMALL, _BEIBEI = "rmbrec-taobao", "rmbrec-tmall", "rmbrec-beibei"
_PURCHASES_ALONE = {
    _TAOBAO: "taobao48k_no_view",
    _TMALL: "tmall41k_no_view",
    _BEIBEI: "beibei21k_purchase_only",
}
_NO_VIEW = {_TAOBAO: "taobao48k_no_view", _TMALL: "tmall41k_no_view"}
_ONE_BEHAVIOR = ("lightgcn", "simgcl", "mf_bpr")
_EXCHANGED = "validation and test pairs of this data set are exchanged in another release"

# HR@10, NDCG@10, HR@20, NDCG@20 on Taobao, TMall and Beibei.
_RMBREC_TABLE_2: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "lightgcn": (
        (0.0253, 0.0137, 0.0364, 0.0178),
        (0.0379, 0.0205, 0.0486, 0.0231),
        (0.0383, 0.0207, 0.0607, 0.0262),
    ),
    "simgcl": (
        (0.0400, 0.0236, 0.0522, 0.0265),
        (0.0709, 0.0399, 0.1018, 0.0487),
        (0.0420, 0.0210, 0.0665, 0.0273),
    ),
    "crgcn": (
        (0.1142, 0.0632, 0.1477, 0.0773),
        (0.0840, 0.0442, 0.1238, 0.0540),
        (0.0539, 0.0259, 0.0944, 0.0361),
    ),
    "mb_cgcn": (
        (0.0989, 0.0471, 0.1368, 0.0595),
        (0.1083, 0.0426, 0.1370, 0.0523),
        (0.0579, 0.0381, 0.1073, 0.0428),
    ),
    "pkef": (
        (0.1098, 0.0627, 0.1223, 0.0651),
        (0.1138, 0.0642, 0.1676, 0.0562),
        (0.0813, 0.0421, 0.1213, 0.0525),
    ),
    "bcipm": (
        (0.1257, 0.0708, 0.1723, 0.0833),
        (0.1418, 0.0743, 0.2025, 0.0891),
        (0.0670, 0.0331, 0.1014, 0.0451),
    ),
    "missl": (
        (0.0782, 0.0629, 0.1134, 0.0759),
        (0.0691, 0.0552, 0.1012, 0.0667),
        (0.0569, 0.0391, 0.0850, 0.0499),
    ),
    "s_mbrec": (
        (0.0568, 0.0328, 0.0891, 0.0411),
        (0.0694, 0.0362, 0.1009, 0.0438),
        (0.0489, 0.0253, 0.0770, 0.0324),
    ),
    "mbssl": (
        (0.0861, 0.0480, 0.1247, 0.0579),
        (0.0760, 0.0421, 0.1113, 0.0509),
        (0.0626, 0.0352, 0.0935, 0.0419),
    ),
    "uipl": (
        (0.1225, 0.0748, 0.1567, 0.0834),
        (0.1484, 0.0819, 0.2005, 0.0946),
        (0.0731, 0.0377, 0.1131, 0.0482),
    ),
    "rmbrec": (
        (0.1462, 0.0969, 0.1766, 0.1046),
        (0.1549, 0.0838, 0.2132, 0.0982),
        (0.0924, 0.0489, 0.1362, 0.0599),
    ),
}
# HR@10, NDCG@10 on Taobao and TMall.
_RMBREC_NO_VIEW = ((0.1093, 0.0758), (0.0686, 0.0411))

# HR@10, NDCG@10 on Tmall, Taobao and Beibei.
_CHARM_TABLE_2: Mapping[str, tuple[tuple[float, float], ...]] = {
    "mf_bpr": ((0.0228, 0.0156), (0.0074, 0.0030), (0.0186, 0.0054)),
    "lightgcn": ((0.0398, 0.0206), (0.0406, 0.0244), (0.0394, 0.0212)),
    "nmtr": ((0.0451, 0.0228), (0.0505, 0.0263), (0.0345, 0.0270)),
    "mbgcn": ((0.0550, 0.0281), (0.0508, 0.0297), (0.0471, 0.0254)),
    "khgt": ((0.0599, 0.0308), (0.1180, 0.0662), (0.0534, 0.0259)),
    "pda": ((0.1089, 0.0517), (0.1009, 0.0500), (0.1067, 0.0518)),
    "decrs": ((0.1231, 0.0649), (0.1108, 0.0532), (0.1178, 0.0593)),
    "causald": ((0.1433, 0.0794), (0.1327, 0.0787), (0.1399, 0.0817)),
    "cvid": ((0.1643, 0.0840), (0.1512, 0.0791), (0.1577, 0.0924)),
    "cdr": ((0.0959, 0.0535), (0.0868, 0.0492), (0.0911, 0.0513)),
    "mba": ((0.1261, 0.0780), (0.1179, 0.0720), (0.1235, 0.0724)),
    "softrec": ((0.1588, 0.0899), (0.1487, 0.0878), (0.1516, 0.0914)),
    "cml": ((0.0532, 0.0284), (0.0682, 0.0632), (0.0429, 0.0303)),
    "rcl": ((0.0835, 0.0441), (0.1249, 0.0737), (0.0559, 0.0325)),
    "pkef": ((0.1281, 0.0724), (0.1390, 0.0780), (0.1129, 0.0576)),
    "copf": ((0.1656, 0.0913), (0.1649, 0.0842), (0.1588, 0.0898)),
    "charm": ((0.1803, 0.0972), (0.1766, 0.0968), (0.1750, 0.0972)),
}
_CHARM_DATA = (("charm-tmall",), ("charm-taobao", "taobao15k"), ("charm-beibei",))
# Column Taobao of Tables 3 and 4.
_CHARM_VARIANTS: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "Table 3": {
        "w/o Attn": (0.1654, 0.0904),
        "w/o MI": (0.1666, 0.0907),
        "w/o VIM": (0.1701, 0.0939),
        "w/o Reweight": (0.1727, 0.0915),
        "w/o SUB": (0.1719, 0.0923),
        "w/o Ordinal": (0.1648, 0.0895),
        "Uniform": (0.1619, 0.0863),
        "HardSet": (0.1737, 0.0948),
        "Heu-Freq": (0.1651, 0.0895),
        "Sub-no-w": (0.1752, 0.0954),
    },
    "Table 4": {
        "VIM-NaiveAdd": (0.1711, 0.0936),
        "VIM-ScaleOnly": (0.1708, 0.0932),
        "VIM-2HopComp": (0.1771, 0.0977),
        "VIM-Recompute": (0.1774, 0.0979),
        "Sub-ItemOnly": (0.1732, 0.0936),
        "Sub-NoProj": (0.1743, 0.0956),
        "Sub-MeanPool": (0.1740, 0.0944),
        "Sub-MaxPool": (0.1754, 0.0965),
        "Sub-FixedMargin": (0.1728, 0.0937),
        "Sub-NoSWeight": (0.1713, 0.0929),
        "Sub-NoWWeight": (0.1732, 0.0940),
    },
}


def published_figures() -> list[Published]:
    """Return every printed row that is known here.

    Examples
    --------
    >>> rows = published_figures()
    >>> [row.values["hr@10"] for row in rows if row.model == "rmbrec" and row.table == "Table 3"]
    [0.1093, 0.0686]
    """
    rows = []
    for model, columns in _RMBREC_TABLE_2.items():
        for data, printed in zip((_TAOBAO, _TMALL, _BEIBEI), columns, strict=True):
            alone = (_PURCHASES_ALONE[data],) if model in _ONE_BEHAVIOR else ()
            rows.append(
                Published(
                    model=model,
                    values=dict(zip(_METRICS, printed, strict=True)),
                    paper=RMBREC,
                    table="Table 2",
                    datasets=(data, *alone),
                    refit=False,
                    note=_EXCHANGED if data == _TMALL else "",
                )
            )
    for (data, files), printed in zip(_NO_VIEW.items(), _RMBREC_NO_VIEW, strict=True):
        rows.append(
            Published(
                model="rmbrec",
                values=dict(zip(_METRICS, printed, strict=False)),
                paper=RMBREC,
                table="Table 3",
                datasets=(files,),
                refit=False,
                note="row w/o View" + (f"; {_EXCHANGED}" if data == _TMALL else ""),
            )
        )
    for model, columns in _CHARM_TABLE_2.items():
        rows += [
            Published(
                model=model,
                values=dict(zip(_METRICS, printed, strict=False)),
                paper=CHARM,
                table="Table 2",
                datasets=datasets,
            )
            for datasets, printed in zip(_CHARM_DATA, columns, strict=True)
        ]
    rows += [
        Published(
            model="charm",
            variant=variant,
            values=dict(zip(_METRICS, printed, strict=False)),
            paper=CHARM,
            table=table,
            datasets=_CHARM_DATA[1],
        )
        for table, variants in _CHARM_VARIANTS.items()
        for variant, printed in variants.items()
    ]
    return rows


@dataclass(frozen=True)
class Beside:
    """What is printed of one model, and whether it may stand beside a result.

    Parameters
    ----------
    shown
        The rows whose data and protocol are the result's.
    withheld
        Rows of the same data under another protocol, each with what differs.
    """

    shown: tuple[Published, ...] = ()
    withheld: tuple[tuple[Published, str], ...] = field(default=())


def same_data(dataset: Dataset) -> list[str]:
    """Return the catalogue names whose counts are exactly those of a data set.

    Users, items, distinct pairs of every behavior (held-out purchases among the purchases), and
    held-out pairs where the catalogue has them. A rounded total alone is no identity.
    """
    training = dataset.training
    rows = {name: part.nnz for name, part in training.interactions.items()}
    rows[dataset.target] = training.purchases.merged(training.validation, dataset.test).nnz
    found = []
    for name, entry in named_datasets().items():
        if not entry.rows or set(rows) != set(entry.behaviors):
            continue
        table = compare_with_catalogue(
            name,
            n_users=dataset.n_users,
            n_items=dataset.n_items,
            rows=rows,
            held_out={
                # Where no file validates, the draw of validation purchases is ours.
                part: pairs.nnz
                for part, pairs in (("validation", training.validation), ("test", dataset.test))
                if part in entry.held_out
            },
        )
        if not (table["matches"] == False).any():  # noqa: E712 - null is not False
            found.append(name)
    return found


def beside(model: str, variant: str | None, protocol: Protocol, datasets: list[str]) -> Beside:
    """Return the printed rows of a model that may stand beside a result, and those that may not.

    Parameters
    ----------
    model, variant
        Which row.
    protocol
        Of the result.
    datasets
        What :func:`same_data` says of its data.
    """
    rows = [
        row
        for row in published_figures()
        if (row.model, row.variant) == (model, variant) and set(row.datasets) & set(datasets)
    ]
    shown, withheld = [], []
    for row in rows:
        reason = why_not(row, protocol)
        if reason:
            withheld.append((row, reason))
        else:
            shown.append(row)
    return Beside(tuple(shown), tuple(withheld))


def why_not(row: Published, protocol: Protocol) -> str:
    """Return how a protocol differs from the one of a printed row; empty if it does not.

    Both papers rank the whole catalogue, take only training purchases out, and leave the
    auxiliary events of held-out pairs in the log.
    """
    if protocol.evaluated != "test":
        return "it is of the test pairs"
    if protocol.candidates != "full":
        return "it ranks the whole catalogue"
    if protocol.masked != ("train-target",):
        return "it takes only training purchases out of the ranking"
    if protocol.split.auxiliary != "keep":
        return "it keeps the auxiliary events of held-out pairs in the log"
    if row.refit is not None and row.refit != protocol.refit:
        return (
            "it is of a model that was trained without the validation pairs"
            if protocol.refit
            else "it is of a model that was trained on the validation pairs, too"
        )
    return ""
