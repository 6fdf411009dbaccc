# groups.g: makes groups, words and tables of GAP's own: bags that are collected by generations and moved together.
Work := function(n)
    local g, i, kept, tree, random;
    random := RandomSource(IsMersenneTwister, 1);
    kept := [];
    for i in [1 .. n] do
        Add(kept, List([1 .. 40], j -> Random(random, 1, 10^30)));
        if i mod 3 = 0 then
            kept[Random(random, 1, Length(kept))] := Permuted([1 .. 60], Random(random, SymmetricGroup(60)));
        fi;
    od;
    g := Group((1,2,3,4,5,6,7,8,9,10,11), (3,7,11,8)(4,10,5,6));
    tree := NewDictionary((1,2), true, g);
    for i in g do
        AddDictionary(tree, i, Order(i));
    od;
    for i in [1 .. n] do
        kept[i] := SortedList(kept[Length(kept) + 1 - i]);
    od;
    return Length(kept);
end;;
