import java.util.Random;

/** java Tree N: N insertions into a search tree that is thrown away ten times, and strings that die young. */
public class Tree {
    static final class Node {
        Node left, right;
        final int key;
        byte[] value;

        Node(int key) {
            this.key = key;
            value = new byte[40 + (key & 127)];
        }
    }

    static Node insert(Node root, int key) {
        if (root == null) return new Node(key);
        Node at = root;
        while (at.key != key) {
            Node next = key < at.key ? at.left : at.right;
            if (next == null) {
                if (key < at.key) at.left = new Node(key);
                else at.right = new Node(key);
                return root;
            }
            at = next;
        }
        at.value = new byte[40 + (key & 63)];
        return root;
    }

    public static void main(String[] arguments) {
        int n = Integer.parseInt(arguments[0]);
        Random random = new Random(1);
        Node root = null;
        long total = 0;
        for (int i = 0; i < n; i++) {
            root = insert(root, random.nextInt());
            total += ("k" + i + "," + i * 31L).split(",").length;
            if (i % (n / 10) == 0) root = null;
        }
        System.out.println(total);
    }
}
