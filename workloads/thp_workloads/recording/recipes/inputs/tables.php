<?php // php tables.php N: an array of arrays and strings, thinned out, sorted and serialised.
ini_set('memory_limit', '2G');
$n = (int)$argv[1];
$a = [];
for ($i = 0; $i < $n; $i++) {
    $a["k" . ($i * 7919 % intdiv($n, 2))] = ['i' => $i, 's' => str_repeat('x', $i % 90)];
    if ($i % 3 == 0) unset($a["k" . ($i * 31 % intdiv($n, 2))]);
}
usort($a, fn($x, $y) => $x['i'] <=> $y['i']);
echo count($a), strlen(serialize(array_slice($a, 0, intdiv($n, 4))));
