%% erl -s actors main N: fifty processes with maps and sorted lists of their own, and a table of all.
-module(actors).
-export([main/1]).

main([Text]) ->
    N = list_to_integer(atom_to_list(Text)),
    Self = self(),
    Workers = [spawn(fun() -> work(N, Self) end) || _ <- lists:seq(1, 50)],
    Results = [receive {Worker, Result} -> Result end || Worker <- Workers],
    Table = ets:new(table, [set]),
    [ets:insert(Table, {I, integer_to_binary(I), lists:seq(1, I rem 9)}) || I <- lists:seq(1, N * 10)],
    io:format("~p ~p~n", [lists:sum(Results), ets:info(Table, size)]),
    halt().

work(N, Parent) ->
    Map = lists:foldl(fun(I, M) -> maps:put(I * 7919 rem N, {I, integer_to_list(I)}, M) end, #{}, lists:seq(1, N)),
    Parent ! {self(), length(lists:sort([V || {V, _} <- maps:values(Map)]))}.
