-- Builds a table of 4,500 rows of 11 to 14 KB in memory, indexes it, asks for random rows, deletes two fifths
-- of them, aggregates the rest and fills up again.
PRAGMA page_size = 32768;
PRAGMA auto_vacuum = FULL;
CREATE TABLE pool(id INTEGER PRIMARY KEY, text BLOB);
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 15)
INSERT INTO pool SELECT i, CAST(hex(randomblob(7500)) AS BLOB) FROM n;

CREATE TABLE item(id INTEGER PRIMARY KEY, code INTEGER, price REAL, body BLOB);
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4499)
INSERT INTO item SELECT i, i * 26544357 % 1000003, i % 10007 / 100.0,
    substr(text, 1 + i * 79 % 1000, 11000 + i * 313 % 3000) FROM n JOIN pool ON pool.id = i % 16;
CREATE INDEX item_code ON item(code);

WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4499)
SELECT count(*), sum(price) FROM n JOIN item ON item.id = i * 48271 % 4493;
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4499)
SELECT count(*), sum(length(body)), max(price) FROM n JOIN item
    ON item.code = (i * 16807 % 4500) * 26544357 % 1000003;

DELETE FROM item WHERE code % 5 < 2;
SELECT code % 100 AS class, count(*), avg(price) FROM item GROUP BY class ORDER BY class LIMIT 3;

WITH RECURSIVE n(i) AS (SELECT 4500 UNION ALL SELECT i + 1 FROM n WHERE i < 4999)
INSERT INTO item SELECT i, i * 26544357 % 1000003, i % 10007 / 100.0,
    substr(text, 1 + i * 79 % 1000, 6000 + i * 313 % 4500) FROM n JOIN pool ON pool.id = i % 16;
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 4499)
SELECT count(*), sum(price) FROM n JOIN item ON item.id = i * 48271 % 4999;
