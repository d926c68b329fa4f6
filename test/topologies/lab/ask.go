package lab

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// askBound is how long a router may take for an answer.
const askBound = 20 * time.Second

// Ask asks FRR's bgpd, or BIRD, by its socket, which takes no process for each
// question and so can be done a hundred times a second.
func (n *Node) Ask(command string) (string, error) {
	path, ask := "/run/frr/bgpd.vty", askFRR
	if n.Router() == BIRD {
		path, ask = "/run/bird/bird.ctl", askBIRD
	}
	c, err := (&net.Dialer{Timeout: askBound}).DialContext(n.lab.ctx, "unix", n.Path(path))
	if err != nil {
		return "", fmt.Errorf("node %s: %w", n.Name, err)
	}
	defer c.Close() //nolint:errcheck // nothing is on its way
	if err = c.SetDeadline(time.Now().Add(askBound)); err != nil {
		return "", err
	}
	out, err := ask(c, command)
	if err != nil {
		return out, fmt.Errorf("node %s: %s: %w", n.Name, command, err)
	}
	return out, nil
}

// askFRR speaks as vtysh does: the command and a zero byte; the answer ends with
// three of them and its status.
func askFRR(c io.ReadWriter, command string) (string, error) {
	if _, err := c.Write(append([]byte(command), 0)); err != nil {
		return "", err
	}
	var out bytes.Buffer
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		out.Write(buf[:n])
		if b := out.Bytes(); len(b) >= 4 && bytes.Equal(b[len(b)-4:len(b)-1], []byte{0, 0, 0}) {
			if status := b[len(b)-1]; status != 0 {
				return string(b[:len(b)-4]), fmt.Errorf("status %d", status)
			}
			return string(b[:len(b)-4]), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// askBIRD speaks as birdc does: lines begin with a code and a dash, the last one of
// an answer with a code and a blank, and what goes on with a blank.
func askBIRD(c io.ReadWriter, command string) (string, error) {
	lines := bufio.NewReader(c)
	answer := func() (string, error) {
		var out strings.Builder
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return "", err
			}
			if line[0] == ' ' || line[0] == '+' {
				out.WriteString(line[1:])
				continue
			}
			if len(line) < 6 {
				return "", fmt.Errorf("answer %q", line)
			}
			out.WriteString(line[5:])
			if line[4] != ' ' {
				continue
			}
			if line[0] >= '8' {
				return out.String(), fmt.Errorf("%s", strings.TrimSpace(line))
			}
			return out.String(), nil
		}
	}
	if _, err := answer(); err != nil {
		return "", fmt.Errorf("greeting: %w", err)
	}
	if _, err := io.WriteString(c, command+"\n"); err != nil {
		return "", err
	}
	return answer()
}
