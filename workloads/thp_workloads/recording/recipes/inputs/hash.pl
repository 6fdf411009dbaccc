# perl hash.pl N: a hash that grows to about N / 2 entries while others are deleted.
my $n = shift; my %h;
for my $i (1 .. $n) {
    $h{"k" . ($i * 7919 % 4000037)} = [$i, "v$i"] if $i % 3;
    delete $h{"k" . ($i * 31 % 4000037)} if $i % 2;
}
print scalar(keys %h), "\n";
