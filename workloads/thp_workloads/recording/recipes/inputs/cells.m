% octave-cli cells.m N: matrices decomposed, solved and transformed, and a cell array of small vectors.
n = str2num(argv(){end});
rand("seed", 1);
a = rand(n);
[u, s, v] = svd(a(:, 1:min(n, 300)));
x = a \ a(:, 1);
c = cell(1, n * 100);
for i = 1:n * 100, c{i} = rand(1, mod(i, 40)); end
f = ifft2(fft2(a));
disp([s(1) norm(x) real(f(1)) numel(c)]);
