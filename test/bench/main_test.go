package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"vipspeaker/pkg/bgp"
)

// The environment of a process of this test binary that plays a part.
const (
	speakerProcess = "VIPSPEAKER_BENCH_SPEAKER"
	routerProcess  = "VIPSPEAKER_BENCH_ROUTER" // the digit of its side
)

// TestMain runs the test binary as what its environment says.
func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(speakerProcess) != "":
		err = bgp.ServeInherited(context.Background())
	case os.Getenv(routerProcess) != "":
		err = router(os.Getenv(routerProcess))
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// speakerCommand makes the command of a speaker process.
func speakerCommand(string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{speakerProcess + "=1"}
	return cmd
}

// startRouter starts a router in the namespace of a side; it ends with b.
func startRouter(b *testing.B, side string) {
	b.Helper()
	cmd := exec.Command("ip", "netns", "exec", "r"+side, "/proc/self/exe")
	cmd.Args[len(cmd.Args)-1] = fmt.Sprintf("/proc/%d/exe", os.Getpid())
	cmd.Env = append(os.Environ(), routerProcess+"="+side)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			b.Errorf("router: %v", err)
		}
	})
}

// router is a BGP speaker at the far end of a side until standard input ends.
func router(side string) error {
	ctx, end := context.WithCancel(context.Background())
	defer end()
	s := bgp.NewSpeaker(bgp.SpeakerOptions{Log: slog.New(slog.DiscardHandler), AcceptPaths: true})
	cfg := bgp.SpeakerConfig{Name: "router", ASN: 65000, RouterID: addr("10.68." + side + ".2"), ListenPort: 179}
	for _, pair := range [][2]string{{"10.68.%s.2", "10.68.%s.1"}, {"fd68:%s::2", "fd68:%s::1"}} {
		local, peer := addr(fmt.Sprintf(pair[0], side)), addr(fmt.Sprintf(pair[1], side))
		cfg.ListenAddresses = append(cfg.ListenAddresses, local)
		cfg.Peers = append(cfg.Peers, bgp.Peer{
			Address: peer, ASN: 65010, LocalAddress: local,
			HoldTime: 90 * time.Second, Keepalive: 30 * time.Second, ConnectRetry: time.Second,
		})
	}
	if err := s.Apply(ctx, cfg); err != nil {
		return err
	}
	go func() { _ = s.Run(ctx) }() // ends with the process
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }
