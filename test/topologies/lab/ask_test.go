package lab

import (
	"io"
	"net"
	"strings"
	"testing"
)

// answering is a router that says its greeting, reads a command up to a byte, and
// says its answer in small pieces.
func answering(t *testing.T, greeting string, until byte, answer string) (c io.ReadWriter, asked <-chan string) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { _ = near.Close() })
	commands := make(chan string, 1)
	go func() {
		defer far.Close()   //nolint:errcheck // a pipe
		if greeting != "" { // a pipe waits for a reader even of nothing
			_, _ = io.WriteString(far, greeting)
		}
		var command []byte
		for b := make([]byte, 1); ; command = append(command, b[0]) {
			if _, err := far.Read(b); err != nil || b[0] == until {
				break
			}
		}
		commands <- string(command)
		for len(answer) > 0 {
			n := min(3, len(answer))
			_, _ = io.WriteString(far, answer[:n])
			answer = answer[n:]
		}
	}()
	return near, commands
}

func TestAsk(t *testing.T) {
	const hello = "0001 BIRD 2.0.12 ready.\n"
	for _, tt := range []struct {
		ask                    func(io.ReadWriter, string) (string, error)
		greeting, answer, want string
		until                  byte
		fails                  string
	}{
		{askBIRD, hello, "1007-Table master4:\n 10.68.6.1/32 unicast\n \tvia 10.68.5.1\n0000 \n", "Table master4:\n10.68.6.1/32 unicast\n\tvia 10.68.5.1\n\n", '\n', ""},
		{askBIRD, hello, "0000 \n", "\n", '\n', ""},
		{askBIRD, hello, "9001 There is no such protocol\n", "There is no such protocol\n", '\n', "9001 There is no such protocol"},
		{askBIRD, hello, "1007-Table", "", '\n', "EOF"},
		{askBIRD, "0001\n", "0000 \n", "", '\n', "greeting: answer"},
		{askFRR, "", "{}\n\x00\x00\x00\x00", "{}\n", 0, ""},
		{askFRR, "", "% Unknown command\n\x00\x00\x00\x02", "% Unknown command\n", 0, "status 2"},
		{askFRR, "", "{}\n\x00\x00", "", 0, "EOF"},
	} {
		c, asked := answering(t, tt.greeting, tt.until, tt.answer)
		got, err := tt.ask(c, "show it")
		if got != tt.want || (err == nil) != (tt.fails == "") || err != nil && !strings.Contains(err.Error(), tt.fails) {
			t.Errorf("%q: %q, %v", tt.answer, got, err)
		}
		if !strings.HasPrefix(tt.fails, "greeting") {
			if command := <-asked; command != "show it" {
				t.Errorf("asked %q", command)
			}
		}
	}
}
