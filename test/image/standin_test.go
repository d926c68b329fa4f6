//go:build long

package image_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// ownLabel marks every image that the test makes, so that all of them, the
// nameless ones of the build's stages too, can be found and removed.
const ownLabel = "vipspeaker.test"

// standInPackages are the Debian packages of the stand-in for Go's image: what
// the Dockerfile's RUN lines use beside Go.
var standInPackages = []string{
	"dash", "coreutils", "libc6", "libselinux1", "libpcre2-8-0", "libattr1", "libacl1", "libgmp10",
}

const caCertificates = "/etc/ssl/certs/ca-certificates.crt"

// bases returns the images that the Dockerfile builds on, other than scratch
// and its own stages.
func bases(t *testing.T, dockerfile string) []string {
	t.Helper()
	text, err := os.ReadFile(dockerfile)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"scratch": true}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^FROM (\S+)(?: AS (\S+))?`).FindAllStringSubmatch(string(text), -1) {
		if !known[m[1]] {
			names = append(names, m[1])
		}
		known[m[1]], known[m[2]] = true, true
	}
	return names
}

// standIn makes an image with the given name from files of this machine: Go,
// the modules that go.mod names, and some of Debian's packages. An image that
// has the name already is left alone and used.
func standIn(t *testing.T, name, label string) {
	t.Helper()
	if exec.CommandContext(t.Context(), "docker", "image", "inspect", name).Run() == nil {
		t.Logf("using the image %s that is there", name)
		return
	}
	modules := moduleFiles(t)
	cmd := exec.CommandContext(t.Context(), "docker", "import",
		"-c", "ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"-c", "ENV GOPROXY=file:///modules GOSUMDB=off GOTOOLCHAIN=local GOPATH=/go",
		"-c", "LABEL "+ownLabel+"="+label, "-", name)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	w := &image{tar: tar.NewWriter(in), have: map[string]bool{}}
	err = errors.Join(
		w.system(t.Context()),
		w.tree(goEnv(t, "GOROOT"), "usr/local/go", "test", "api", "doc"),
		w.tree(modules, "modules"),
		w.folder("tmp", 0o1777),
		w.tar.Close(), in.Close())
	if err = errors.Join(err, cmd.Wait()); err != nil {
		t.Fatalf("make a stand-in for %s: %v: %s", name, err, out.Bytes())
	}
}

// moduleFiles returns a directory that serves as module proxy for all modules
// of go.mod. They come from this machine's module cache where it has them.
func moduleFiles(t *testing.T) string {
	t.Helper()
	cache := t.TempDir()
	local := "file://" + filepath.Join(goEnv(t, "GOMODCACHE"), "cache", "download")
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download")
	cmd.Dir = root
	cmd.Env = append(os.Environ(),
		"GOMODCACHE="+cache, "GOFLAGS=-modcacherw", "GOPROXY="+local+","+goEnv(t, "GOPROXY"), "GOSUMDB=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go mod download: %v: %s", err, out)
	}
	return filepath.Join(cache, "cache", "download")
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// image writes the files of an image.
type image struct {
	tar  *tar.Writer
	have map[string]bool
}

// system adds the packages' programs and libraries, and what Debian's layout
// and certificates need beside them.
func (w *image) system(ctx context.Context) error {
	for _, link := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if err := w.file(link, link); err != nil {
			return err
		}
	}
	out, err := exec.CommandContext(ctx, "dpkg", append([]string{"-L"}, standInPackages...)...).Output()
	if err != nil {
		return fmt.Errorf("list the files of Debian's packages: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		path := lines.Text()
		info, err := os.Lstat(path) // dpkg also lists diversions, which are no paths
		if err != nil || info.IsDir() || strings.HasPrefix(path, "/usr/share/") {
			continue
		}
		real, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return err
		}
		if err := w.file(path, filepath.Join(real, filepath.Base(path))); err != nil {
			return err
		}
	}
	return w.file(caCertificates, caCertificates)
}

// tree adds a directory as name, without the named parts of it.
func (w *image) tree(dir, name string, without ...string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if slices.Contains(without, rel) {
			return fs.SkipDir
		}
		if entry.IsDir() {
			return nil
		}
		return w.file(path, filepath.Join(name, rel))
	})
}

func (w *image) folder(name string, mode int64) error {
	return w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

// file adds a regular file or a symbolic link once.
func (w *image) file(path, name string) error {
	name = strings.TrimPrefix(name, "/")
	info, err := os.Lstat(path)
	if err != nil || w.have[name] {
		return err
	}
	w.have[name] = true
	link := ""
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	case info.IsDir(): // a machine whose /bin is no link
		return w.folder(name, 0o755)
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name, header.Uid, header.Gid, header.Uname, header.Gname = name, 0, 0, "", ""
	if err = w.tar.WriteHeader(header); err != nil || link != "" {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(w.tar, file)
	return errors.Join(err, file.Close())
}
