package health

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// said is a connection on which the server says what it says, whatever it is
// asked, and then ends it.
type said struct {
	io.Reader

	asked bytes.Buffer
	read  int64 // how many bytes
}

func (s *said) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	s.read += int64(n)
	return n, err
}

func (s *said) Write(b []byte) (int, error) { return s.asked.Write(b) }

func (s *said) Close() error {
	s.Reader = iotest.ErrReader(net.ErrClosed)
	return nil
}

func heardFrom(text string) *said { return &said{Reader: strings.NewReader(text)} }

// httpAsking is a check that looks for the text in a body.
func httpAsking(tb testing.TB, text string) *httpCheck {
	tb.Helper()
	c, err := NewHTTP(HTTPConfig{URL: &url.URL{Scheme: "http", Host: "192.0.2.1", Path: "/"}, Body: text})
	if err != nil {
		tb.Fatal(err)
	}
	return c.(*httpCheck)
}

// Bodies in all the forms that HTTP/1 has, whole, cut and broken.
func TestHTTPBody(t *testing.T) {
	const header = "HTTP/1.1 200 OK\r\n"
	chunks := func(list ...string) string {
		text := header + "Transfer-Encoding: chunked\r\n\r\n"
		for _, c := range list {
			text += strconv.FormatInt(int64(len(c)), 16) + "\r\n" + c + "\r\n"
		}
		return text
	}
	for _, tc := range []struct{ name, answer, want string }{
		{"until the end", header + "\r\nall is well", ""},
		{"HTTP/1.0", "HTTP/1.0 200 OK\r\n\r\nall is well", ""},
		{"of a length", header + "Content-Length: 11\r\n\r\nall is well", ""},
		{"of a length, with more behind it", header + "Content-Length: 6\r\n\r\nall is well", `body without "well", begins with "all is"`},
		{"shorter than its length", header + "Content-Length: 99\r\n\r\nall is", "unexpected EOF"},
		{"cut behind the text", header + "Content-Length: 99\r\n\r\nall is well", ""},
		{"of no length", header + "Content-Length: -1\r\n\r\nall is well", `bad Content-Length "-1"`},
		{"of two lengths", header + "Content-Length: 11\r\nContent-Length: 12\r\n\r\nall is well", `http: message cannot contain multiple Content-Length headers; got ["11" "12"]`},
		{"chunked", chunks("all is well", ""), ""},
		{"text in two chunks", chunks("all is we", "ll", ""), ""},
		{"chunked without the text", chunks("all is bad", ""), `body without "well", begins with "all is bad"`},
		{"cut chunk", header + "Transfer-Encoding: chunked\r\n\r\n20\r\nall is", "unexpected EOF"},
		{"no last chunk", chunks("all is bad"), "unexpected EOF"},
		{"garbage for a chunk", header + "Transfer-Encoding: chunked\r\n\r\nall is well\r\n", "invalid byte in chunk length"},
		{"no body", "HTTP/1.1 204 No Content\r\n\r\nall is well", `body without "well", begins with ""`},
		{"empty", header + "Content-Length: 0\r\n\r\n", `body without "well", begins with ""`},
		{"switch of protocols", "HTTP/1.1 101 Switching Protocols\r\n\r\nwell", "status 101, want 200-399"},
		{"header without a colon", header + "all is well\r\n\r\n", `malformed MIME header: missing colon: "all is well"`},
		{"header that is longest", header + "X: " + strings.Repeat("x", headerBytes-100) + "\r\n\r\nall is well", ""},
		{"HTTP/2", "\x00\x00\x12\x04\x00\x00\x00\x00\x00", `malformed HTTP response "\x00\x00\x12\x04\x00\x00\x00\x00\x00"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, wrap := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "in bytes": iotest.OneByteReader} {
				conn := heardFrom(tc.answer)
				conn.Reader = wrap(conn.Reader)
				got := ""
				if err := httpAsking(t, "well").converse(conn); err != nil {
					got = err.Error()
				}
				if got != tc.want {
					t.Errorf("%s: check = %q, want %q", name, got, tc.want)
				}
				if asked := conn.asked.String(); asked != "GET / HTTP/1.1\r\nHost: 192.0.2.1\r\nUser-Agent: vipspeaker\r\nConnection: close\r\n\r\n" {
					t.Errorf("asked %q", asked)
				}
			}
		})
	}
}

// Neither who says too much nor who says it slowly is heard for ever.
func TestHTTPEndless(t *testing.T) {
	noGoroutines(t)
	noDescriptors(t)
	for _, tc := range []struct{ name, begin, again string }{
		{"first line", "HTTP/1.1 200 ", "x"},
		{"header line", "HTTP/1.1 200 OK\r\nX: ", "x"},
		{"header", "HTTP/1.1 200 OK\r\n", "X: x\r\n"},
		{"body", "HTTP/1.1 200 OK\r\n\r\n", "x"},
		{"chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n", "x"},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"},
		{"chunk length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0"},
		{"trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "X: x\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn := &said{Reader: io.MultiReader(strings.NewReader(tc.begin), &repeated{text: tc.again})}
			if err := httpAsking(t, "well").converse(conn); err == nil {
				t.Error("an endless answer passes")
			}
			if most := int64(headerBytes + bodyBytes); conn.read > most {
				t.Errorf("%d bytes were read, want %d at most", conn.read, most)
			}
			slow := server(t, "127.0.0.1:0", func(c net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					return
				}
				_, err := io.WriteString(c, tc.begin)
				tick := time.NewTicker(200 * time.Microsecond)
				defer tick.Stop()
				for ; err == nil; <-tick.C {
					_, err = io.WriteString(c, tc.again)
				}
			})
			c := httpChecker(t, "http://"+slow.String(), func(c *HTTPConfig) { c.Body = "well" })
			want(t, c, 100*time.Millisecond, "http://"+slow.String()+": timeout after …")
		})
	}
}

// repeated says a text without end.
type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = r.text[r.at%len(r.text)]
		r.at++
	}
	return len(b), nil
}

// FuzzHTTPAnswer: whatever a server says, the check ends, reads no more than it
// may, and passes only for an answer with the text.
func FuzzHTTPAnswer(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell", "HTTP/1.0 302 Found\r\nLocation: /\r\n\r\nwell",
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nwell",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwe\r\n2;x=y\r\nll\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\nwell", "HTTP/1.1 200\r\n\r\n", "SSH-2.0-OpenSSH_9.9\r\n", "",
	} {
		f.Add([]byte(s), false)
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, answer []byte, slow bool) {
		conn := &said{Reader: bytes.NewReader(answer)}
		if slow {
			conn.Reader = iotest.OneByteReader(conn.Reader)
		}
		err := httpAsking(t, "well").converse(conn)
		if conn.read > headerBytes+bodyBytes {
			t.Errorf("%d bytes were read", conn.read)
		}
		if err == nil && !bytes.HasPrefix(answer, []byte("HTTP/")) {
			t.Errorf("passes for %q", answer)
		}
		if err != nil && err.Error() == "" {
			t.Error("fails without a word")
		}
	})
}
