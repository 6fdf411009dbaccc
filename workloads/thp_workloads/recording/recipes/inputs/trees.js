// node trees.js DEPTH: one tree is kept while 130 of an eighth of its size die, then it is copied by way of JSON.
const depth = +process.argv[2];
const make = (d) => (d === 0 ? { l: null, r: null } : { l: make(d - 1), r: make(d - 1) });
const count = (t) => (t.l ? 1 + count(t.l) + count(t.r) : 1);
const kept = make(depth);
let total = 0;
for (let i = 0; i < 130; i++) total += count(make(depth - 3));
console.log(total + count(JSON.parse(JSON.stringify(kept))));
