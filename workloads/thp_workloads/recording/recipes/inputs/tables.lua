-- lua5.4 tables.lua N: tables that are filled, thinned out, collected in order and sorted.
local n = tonumber(arg[1])
local half = n // 2 + 1
local t, values = {}, {}
for i = 1, n do
    t["k" .. (i * 7919 % half)] = {i, "v" .. i}
    if i % 3 == 0 then t["k" .. (i * 31 % half)] = nil end
end
for _, v in pairs(t) do values[#values + 1] = v[2] end
table.sort(values)
print(#values)
