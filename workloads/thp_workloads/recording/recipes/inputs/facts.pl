% facts.pl N: asserts N edges of a random graph, finds what can be reached by tabling, and sorts and folds long lists.
:- initialization(main, main).
:- table reach/2.
:- dynamic edge/2.

next(S0, S) :- S is (S0 * 1103515245 + 12345) mod 2147483648.

edges(0, _, _) :- !.
edges(K, N, S0) :- next(S0, S1), next(S1, S), A is (S1 >> 8) mod N, B is (S >> 8) mod N,
    assertz(edge(A, B)), K1 is K - 1, edges(K1, N, S).

reach(A, B) :- edge(A, B).
reach(A, C) :- reach(A, B), edge(B, C).

list(0, _, []) :- !.
list(K, S0, [S-K|L]) :- next(S0, S), K1 is K - 1, list(K1, S, L).

round(K, N, S) :- list(N, S, L), keysort(L, M), msort(M, O), foldl([A-_, X, Y]>>(Y is (X + A) mod 1000003), O, 0, R),
    assertz(done(K, R)).

main([Text]) :- atom_number(Text, N), M is N // 150, edges(N, M, 1),
    forall(between(1, 3, A), (B is A * 7 mod M, aggregate_all(count, reach(B, _), _))),
    P is N * 2, forall(between(1, 8, K), round(K, P, K)).
