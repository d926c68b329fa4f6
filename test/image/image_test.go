//go:build long

// Package image_test builds the real Dockerfile and runs the sample with the
// container as the host: as an ordinary user, with two capabilities, beside a
// BIRD in a namespace of the test's own.
package image_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"

	"vipspeaker/pkg/status"
)

// root is the project's directory as seen from this one.
const root = "../.."

// maxSize bounds the image, which Docker's classic builder makes of two copies
// of the program.
const maxSize = 80 << 20

const configuration = `bgp:
  asn: 65010
  router_id: 10.68.1.1   # the interfaces come after the start
interfaces:
  - {name: en1, hold_up: 200ms, gateway: 10.68.1.2, peers: [{address: 10.68.1.2, asn: 65000}]}
  - {name: en5, hold_up: 200ms, gateway: 10.68.5.2, peers: [{address: 10.68.5.2, asn: 65000}]}
vips:
  - {name: vipa, address: 10.68.6.1/32, preferred_source: true}
`

const birdConfiguration = `router id 10.68.9.1;
log "%[1]s/bird.log" all;
protocol device { scan time 1; }
protocol kernel { merge paths yes; ipv4 { import none; export where source = RTS_BGP; }; }
template bgp host { local as 65000; connect retry time 1; error wait time 1, 2; ipv4 { import all; export none; }; }
protocol bgp en1 from host { neighbor 10.68.1.1 as 65010; source address 10.68.1.2; }
protocol bgp en5 from host { neighbor 10.68.5.1 as 65010; source address 10.68.5.2; }
`

func TestLongImage(t *testing.T) {
	t.Parallel()
	// A build from nothing, beside other builds.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	label := strconv.Itoa(os.Getpid())
	tag := "vipspeaker-test:" + label
	// What is cleaned up last is registered first.
	t.Cleanup(func() { removeImages(t, label) })

	docker(ctx, t, "version")
	start := time.Now()
	for _, name := range bases(t, filepath.Join(root, "Dockerfile")) {
		standIn(t, name, label)
	}
	t.Logf("stand-ins after %v", time.Since(start))
	docker(ctx, t, "build", "--force-rm", "--label", ownLabel+"="+label, "-t", tag, root)
	t.Logf("image after %v", time.Since(start))

	t.Run("content", func(t *testing.T) { content(ctx, t, tag) })
	t.Run("without capabilities", func(t *testing.T) {
		if out := docker(ctx, t, "run", "--rm", "--cap-drop", "ALL", "--network", "none", tag, "version"); !strings.Contains(out, "gobgp v3") {
			t.Errorf("version prints %q", out)
		}
	})
	t.Run("sample", func(t *testing.T) { sample(ctx, t, tag, label) })
}

// removeImages removes all images of this run.
func removeImages(t *testing.T, label string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "docker", "images", "-q", "--no-trunc", "--filter", "label="+ownLabel+"="+label).Output()
	if err != nil {
		t.Errorf("list images: %v", err)
	}
	ids := strings.Fields(string(out))
	if len(ids) == 0 {
		return
	}
	if out, err := exec.CommandContext(ctx, "docker", append([]string{"rmi", "-f"}, ids...)...).CombinedOutput(); err != nil {
		t.Errorf("remove images: %v: %s", err, out)
	}
}

// docker runs a docker command to its end and returns what it prints.
func docker(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	return command(ctx, t, "docker", args...)
}

func command(ctx context.Context, t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// content checks what is in the image: the program, the certificates and the
// run directory, no shell; who runs it; and how large it is.
func content(ctx context.Context, t *testing.T, tag string) {
	t.Helper()
	var inspect []struct {
		Size   int64
		Config struct {
			User       string
			Entrypoint []string
		}
	}
	if err := json.Unmarshal([]byte(docker(ctx, t, "image", "inspect", tag)), &inspect); err != nil {
		t.Fatal(err)
	}
	if i := inspect[0]; i.Size > maxSize || i.Config.User != "65532:65532" {
		t.Errorf("the image has %d octets and runs as %q; want at most %d and 65532:65532", i.Size, i.Config.User, maxSize)
	} else {
		t.Logf("the image has %.1f MB", float64(i.Size)/1e6)
	}

	id := strings.TrimSpace(docker(ctx, t, "create", tag))
	defer docker(context.WithoutCancel(ctx), t, "rm", id)
	export := exec.CommandContext(ctx, "docker", "export", id)
	out, err := export.StdoutPipe()
	if err == nil {
		err = export.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		// Docker adds mount points: empty files, links and directories.
		if h.Size > 0 || strings.HasPrefix(h.Name, "run/vipspeaker") {
			files = append(files, fmt.Sprintf("%s %d", h.Name, h.Uid))
		}
	}
	if err := export.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	want := []string{"etc/ssl/certs/ca-certificates.crt 0", "run/vipspeaker/ 65532", "usr/bin/vipspeaker 0"}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("files of the image (-want +got):\n%s", diff)
	}
}

// site is a router beside a container.
type site struct {
	t            *testing.T
	router, host string // namespaces
	container    string
	pid          int // of the daemon, as the machine sees it
	log          string
}

// sample runs the sample with the container as the host.
func sample(ctx context.Context, t *testing.T, tag, label string) {
	t.Helper()
	s := newSite(ctx, t, tag, label)
	hops := func() string { return s.hops(ctx) }
	s.await(time.Minute, "10.68.1.1 10.68.5.1", hops)
	s.privileges()
	s.await(time.Minute, "10.68.6.1", func() string { return s.source(ctx, "10.68.9.9") })
	if err := s.connect(ctx, "10.68.6.1:9"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a connection from the router to a closed port of the VIP: %v, want it refused", err)
	}
	s.status(ctx)

	command(ctx, t, "ip", "-n", s.host, "link", "set", "en1", "down")
	s.await(time.Minute, "10.68.5.1", hops)
	command(ctx, t, "ip", "-n", s.host, "link", "set", "en1", "up")
	s.await(time.Minute, "10.68.1.1 10.68.5.1", hops)

	docker(ctx, t, "stop", "--time", "60", s.container)
	if code := strings.TrimSpace(docker(ctx, t, "inspect", "-f", "{{.State.ExitCode}}", s.container)); code != "0" {
		t.Errorf("exit code after docker stop: %s, want 0; its log:\n%s", code, docker(ctx, t, "logs", s.container))
	}
	s.await(time.Minute, "", hops)
	// Not just a link that vanished with the container's namespace. It may read that
	// after the withdraw.
	s.await(time.Minute, "heard", func() string {
		log, err := os.ReadFile(s.log)
		if err != nil || !strings.Contains(string(log), "dministrative shutdown") {
			return fmt.Sprintf("of no administrative shutdown (%v): %s", err, log)
		}
		return "heard"
	})
}

func newSite(ctx context.Context, t *testing.T, tag, label string) *site {
	t.Helper()
	after := context.WithoutCancel(ctx) // for cleaning up
	dir := t.TempDir()
	name := "vsimage" + label
	s := &site{t: t, router: name + "r", host: name + "h", container: name, log: filepath.Join(dir, "bird.log")}
	write(t, filepath.Join(dir, "bird.conf"), fmt.Sprintf(birdConfiguration, dir))
	conf := filepath.Join(dir, "etc")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(conf, "vipspeaker.yaml"), configuration)

	command(ctx, t, "ip", "netns", "add", s.router)
	t.Cleanup(func() { command(after, t, "ip", "netns", "del", s.router) })
	docker(ctx, t, "run", "-d", "--name", s.container, "--network", "none",
		"--cap-drop", "ALL", "--cap-add", "NET_ADMIN", "--cap-add", "NET_BIND_SERVICE", "-v", conf+":/etc/vipspeaker:ro", tag)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", docker(after, t, "logs", s.container))
		}
		docker(after, t, "rm", "-f", s.container)
	})
	pid := strings.TrimSpace(docker(ctx, t, "inspect", "-f", "{{.State.Pid}}", s.container))
	var err error
	if s.pid, err = strconv.Atoi(pid); err != nil || s.pid == 0 {
		t.Fatalf("the container ended at once: %s", docker(ctx, t, "logs", s.container))
	}
	command(ctx, t, "ip", "netns", "attach", s.host, pid)
	t.Cleanup(func() { command(after, t, "ip", "netns", "del", s.host) })
	for _, n := range []string{"1", "5"} {
		command(ctx, t, "ip", "-n", s.router, "link", "add", "r"+n, "type", "veth", "peer", "name", "en"+n, "netns", s.host)
		command(ctx, t, "ip", "-n", s.router, "addr", "add", "10.68."+n+".2/24", "dev", "r"+n)
		command(ctx, t, "ip", "-n", s.host, "addr", "add", "10.68."+n+".1/24", "dev", "en"+n)
		command(ctx, t, "ip", "-n", s.router, "link", "set", "r"+n, "up")
		command(ctx, t, "ip", "-n", s.host, "link", "set", "en"+n, "up")
	}
	command(ctx, t, "ip", "-n", s.router, "addr", "add", "10.68.9.9/32", "dev", "lo")
	command(ctx, t, "ip", "-n", s.router, "link", "set", "lo", "up")

	bird := exec.CommandContext(ctx, "ip", "netns", "exec", s.router, "bird", "-f", "-c", filepath.Join(dir, "bird.conf"), "-s", filepath.Join(dir, "bird.ctl"))
	if err := bird.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = bird.Process.Kill()
		_ = bird.Wait() // killed
	})
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// await polls until got is what is wanted.
func (s *site) await(limit time.Duration, want string, got func() string) {
	s.t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	last := got()
	for ; last != want && time.Now().Before(deadline); last = got() {
		<-tick.C
	}
	if last != want {
		s.t.Fatalf("after %v: %q, want %q", limit, last, want)
	}
}

// ipJSON runs ip(8) in a namespace and fills v; errors leave v as it is.
func (s *site) ipJSON(ctx context.Context, namespace string, v any, args ...string) {
	out, err := exec.CommandContext(ctx, "ip", append([]string{"-j", "-n", namespace}, args...)...).Output()
	if err == nil && len(out) > 0 {
		err = json.Unmarshal(out, v)
	}
	if err != nil {
		s.t.Logf("ip %s: %v", strings.Join(args, " "), err)
	}
}

// hops are the next hops of the router's kernel route to the VIP.
func (s *site) hops(ctx context.Context) string {
	var routes []struct {
		Gateway  string
		Nexthops []struct{ Gateway string }
	}
	s.ipJSON(ctx, s.router, &routes, "route", "show", "10.68.6.1/32")
	var hops []string
	for _, r := range routes {
		if r.Gateway != "" {
			hops = append(hops, r.Gateway)
		}
		for _, n := range r.Nexthops {
			hops = append(hops, n.Gateway)
		}
	}
	slices.Sort(hops)
	return strings.Join(hops, " ")
}

// source is the source address that the container's kernel gives traffic that
// names none.
func (s *site) source(ctx context.Context, to string) string {
	var routes []struct{ Prefsrc string }
	s.ipJSON(ctx, s.host, &routes, "route", "get", to)
	if len(routes) == 0 {
		return ""
	}
	return routes[0].Prefsrc
}

// connect opens a TCP connection from the router.
func (s *site) connect(ctx context.Context, to string) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.GetFromName(s.router)
		if err == nil {
			err = netns.Set(ns)
		}
		if err == nil {
			_, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp4", to)
		}
		result <- err
	}()
	return <-result
}

// privileges checks the daemon's and its speaker processes' user and
// capabilities (proc_pid_status(5)).
func (s *site) privileges() {
	s.t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		s.t.Fatal(err)
	}
	got := map[string]int{}
	for _, p := range processes {
		text, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended
		}
		field := map[string]string{}
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok {
				field[name] = strings.Join(strings.Fields(value), " ")
			}
		}
		var role string
		switch strconv.Itoa(s.pid) {
		case field["Pid"]:
			role = "daemon"
		case field["PPid"]:
			role = "speaker"
		default:
			continue
		}
		got[fmt.Sprintf("%s uid %s effective %s permitted %s", role, field["Uid"], field["CapEff"], field["CapPrm"])]++
	}
	want := map[string]int{
		"daemon uid 65532 65532 65532 65532 effective 0000000000001400 permitted 0000000000001400":  1,
		"speaker uid 65532 65532 65532 65532 effective 0000000000000400 permitted 0000000000000400": 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.t.Errorf("users and capabilities of the container's processes (-want +got):\n%s", diff)
	}
}

// status asks the daemon as "docker exec" does.
func (s *site) status(ctx context.Context) {
	s.t.Helper()
	var picture status.Status
	s.await(time.Minute, "announced", func() string {
		out := docker(ctx, s.t, "exec", s.container, "vipspeaker", "status", "-o", "json")
		picture = status.Status{}
		if err := json.Unmarshal([]byte(out), &picture); err != nil {
			s.t.Fatalf("status prints no JSON: %v\n%s", err, out)
		}
		if len(picture.VIPs) != 1 || !picture.VIPs[0].Announced {
			return out
		}
		return "announced"
	})
	// Docker mounts /proc/sys read-only; the daemon tells and works on.
	s.t.Logf("problems: %s", strings.Join(picture.Kernel.Problems, "\n"))
	if len(picture.Kernel.Problems) == 0 {
		s.t.Error("status names no problem, although the sysctls cannot be set")
	}
}
