// Answers GET /N with a digest that was computed, and how many it gave before.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;

public class Server {
  static final AtomicLong answers = new AtomicLong();

  static String digest(String text) throws GeneralSecurityException {
    MessageDigest sha256 = MessageDigest.getInstance("SHA-256");
    for (int i = 0; i < 50; ++i) text = HexFormat.of().formatHex(sha256.digest(text.getBytes()));
    return text;
  }

  static void answer(HttpExchange exchange) throws IOException {
    try (OutputStream out = exchange.getResponseBody()) {
      String number = exchange.getRequestURI().getPath().substring(1);
      byte[] body = (digest(number) + " " + answers.incrementAndGet()).getBytes();
      exchange.sendResponseHeaders(200, body.length);
      out.write(body);
    } catch (GeneralSecurityException e) {
      throw new IOException(e);
    }
  }

  public static void main(String[] arguments) throws IOException {
    Runtime.getRuntime().addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(0)));
    InetSocketAddress address = new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0]));
    HttpServer server = HttpServer.create(address, 0);
    server.setExecutor(Executors.newFixedThreadPool(4));
    server.createContext("/", Server::answer);
    server.start();
  }
}
