// node maps.js N: a map of N / 24 objects with arrays and strings, overwritten again and again.
const n = +process.argv[2];
const map = new Map();
let total = 0;
for (let i = 0; i < n; i++) {
  map.set(i % Math.ceil(n / 24), { a: i, b: [i, i + 1], c: "x" + i });
  if (i % 7 === 0) total += map.size;
}
console.log(total);
