"""The adversary laboratory: for each attack, what stops it, shown end to end. Start reading here.

Most tests run once for each scheme that goes through masked mode.

| attack | file |
|---|---|
| one site as survivor and as dropout; short or double quorums | test_both_sets.py |
| different lists or headers for different sites | test_split_views.py |
| threshold, quorum, modulus, quantiser, graph, range of the server's choice | test_server_chosen.py |
| anything sent twice: other phases, attempts, rounds, sessions, sites; one mask for two vectors | test_replays.py |
| swapped, copied, low-order and reflected keys; tampered, swapped, mis-indexed shares | test_keys_and_shares.py |
| second answers after restarts, from backups, from cloned machines | test_second_answers.py |
| different or crafted models | test_models.py |
| two sums on one adapter that differ by few sites | test_selection.py |
| colluders, Sybils, tiny cohorts, denied vectors; what lies beyond the claims | test_collusion.py |
| overflow of a lane | test_overflow.py |
| a false sum, alone and with a colluder | test_integrity.py |
| ckks mode: the server alone, with one site; ciphertexts made of others'; outputs with errors | test_blind_sums.py |
| any of these together, at random | test_any_combination.py |

The tools: forms.py (what differs between schemes), parties.py (honest sites, colluders), lab.py (the network, the
server and all it saw), knowledge.py (all that follows from what it saw), worlds.py (that nothing else does), ending.py
(how it ends a round).
"""
