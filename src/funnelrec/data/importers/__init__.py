"""Public benchmark layouts, read as frames of interactions.

Each layout was read from the repositories that publish it:

================== ======================================================== ======================
layout             files                                                    published by
================== ======================================================== ======================
``csr-pickles``    ``trn_<behavior>``, ``tst_int``, or                      MB-GMN, PKEF, COPF,
                   ``train_mat_<behavior>.pkl``, ``test_mat.pkl``           SSLRec
``id-pairs``       ``<behavior>.txt``, ``count.txt``, ``validation.txt``,   CRGCN, BIPN, UIPL,
                   ``test.txt`` (or ``<name>_dict.txt``)                    RMBRec
``adjacency-lists`` ``<behavior>/train.txt``, ``<behavior>/test.txt``, or   MB-CGCN, LightGCN
                   ``<behavior>.txt`` or ``train.txt``, and ``test.txt``
``recbole``        ``<name>.inter``, or ``<name>.train.inter``,             RecBole
                   ``<name>.valid.inter``, ``<name>.test.inter``
``parquet``        ``train.parquet``, ``validation.parquet``,               funnelrec
                   ``test.parquet``
================== ======================================================== ======================

Identifiers stay as the files have them (from 1 in ``id-pairs``, text in ``recbole``, from 0
elsewhere). Nothing is dropped in silence: what a layout ships and an importer does not use is
listed in the notes of what it returns.
"""

from __future__ import annotations

from funnelrec.data.importers._shared import Behaviors, ImportedLog
from funnelrec.data.importers.adjacency_lists import import_adjacency_lists
from funnelrec.data.importers.csr_pickles import import_csr_pickles
from funnelrec.data.importers.id_pairs import import_id_pairs
from funnelrec.data.importers.layouts import Layout, detect_layout, import_layout
from funnelrec.data.importers.parquet import import_parquet
from funnelrec.data.importers.recbole import import_recbole

__all__ = [
    "Behaviors",
    "ImportedLog",
    "Layout",
    "detect_layout",
    "import_adjacency_lists",
    "import_csr_pickles",
    "import_id_pairs",
    "import_layout",
    "import_parquet",
    "import_recbole",
]
