import java.util.HashMap;

/** Keeps records in a map, drops most of them, and makes arrays of several lifetimes. */
public class Heap {
    static int seed = 1;

    static int next(int bound) {
        seed = seed * 1103515245 + 12345;
        return (seed >>> 8) % bound;
    }

    public static void main(String[] arguments) {
        HashMap<Integer, byte[]> table = new HashMap<>();
        for (int i = 0; i < 1000; i++) {
            byte[] record = new byte[4000 + next(12000)];
            record[i % record.length] = (byte) i;
            table.put(i, record);
            if (i > 400) table.remove(next(i));
        }
        long[][] images = new long[48][];
        for (int i = 0; i < 60; i++) {
            int place = next(images.length);
            images[place] = new long[64 * 1024];
            for (int k = 0; k < 64 * 1024; k += 4096) images[place][k] = i;
        }
        long total = 0;
        for (int i = 0; i < 1500; i++) {
            byte[] record = table.get(next(1000));
            if (record != null) total += record[next(record.length)];
            long[] image = images[next(images.length)];
            if (image != null) total += image[next(image.length)];
        }
        System.out.println(total);
    }
}
