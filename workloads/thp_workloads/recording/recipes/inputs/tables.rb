# ruby tables.rb N: a hash of arrays and strings, thinned out, sorted and grouped.
n = ARGV[0].to_i
h = {}
n.times do |i|
  h["k#{i * 7919 % (n / 2 + 1)}"] = [i, "v#{i}", { a: i }]
  h.delete("k#{i * 31 % (n / 2 + 1)}") if i % 3 == 0
end
puts h.values.map { |v| v[1] * 3 }.sort.uniq.size, h.to_a.group_by { |_, v| v[0] % 1000 }.map { |_, v| v.size }.sum
