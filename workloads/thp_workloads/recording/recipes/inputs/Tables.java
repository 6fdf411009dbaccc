import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.util.Random;

/** java Tables N: a table of H2 in memory: N rows with an index, updates, a join. */
public class Tables {
    public static void main(String[] arguments) throws Exception {
        int n = Integer.parseInt(arguments[0]);
        Random random = new Random(1);
        Connection connection = DriverManager.getConnection("jdbc:h2:mem:x");
        connection.createStatement().execute("create table t(id int primary key, k int, v varchar)");
        connection.createStatement().execute("create index i on t(k)");
        PreparedStatement insert = connection.prepareStatement("insert into t values(?, ?, ?)");
        for (int i = 0; i < n; i++) {
            insert.setInt(1, i);
            insert.setInt(2, random.nextInt(n));
            insert.setString(3, "v" + random.nextLong());
            insert.executeUpdate();
        }
        PreparedStatement update = connection.prepareStatement("update t set v = ? where k = ?");
        for (int i = 0; i < n / 4; i++) {
            update.setString(1, "z" + i);
            update.setInt(2, random.nextInt(n));
            update.executeUpdate();
        }
        ResultSet found = connection.createStatement()
            .executeQuery("select count(*), max(b.v) from t a join t b on a.k = b.id");
        found.next();
        System.out.println(found.getInt(1));
    }
}
