// Package draft replaces files as a whole, in directories that belong to the daemon's
// user while root may be who writes: with `vipspeaker cleanup`, or a daemon that was
// started by hand.
package draft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// suffix is what the name of a draft has more than that of its file.
const suffix = ".new"

// Path is where the next content of a file is written before it takes the file's place.
func Path(path string) string { return path + suffix }

// Write writes the draft of a file and puts it in the file's place. It does not wait for
// the disk.
func Write(path string, data []byte, mode fs.FileMode) error {
	f, err := Create(path, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(Path(path), path)
}

// Create opens the draft of a file, empty.
func Create(path string, mode fs.FileMode) (*os.File, error) {
	path = Path(path)
	f, err := Open(path, os.O_WRONLY, mode)
	if errors.Is(err, fs.ErrPermission) && os.Remove(path) == nil {
		f, err = Open(path, os.O_WRONLY, mode) // it was left by root, which had been killed
	}
	if err != nil {
		return nil, err
	}
	if err = f.Truncate(0); err != nil && !errors.Is(err, syscall.EINVAL) { // of what is no regular file
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Open opens a file with the flags and makes it if it is missing. Made by root, or left by
// root, it belongs to the owner of its directory: that user could not read or replace it
// otherwise, and the daemon would not start any more. It is opened by no symbolic or hard
// link, by which that user could have root write into a file of others.
func Open(path string, flags int, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flags|os.O_CREATE|syscall.O_NOFOLLOW, mode) //nolint:gosec // the operator names the directory
	if err != nil {
		return nil, err
	}
	if err = own(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// own gives a file of root to the owner of its directory.
func own(f *os.File) error {
	file, err := f.Stat()
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	is, to := file.Sys().(*syscall.Stat_t), dir.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // they are on Linux
	if is.Nlink > 1 {
		return fmt.Errorf("%s: has %d names, and is left alone: remove it", f.Name(), is.Nlink)
	}
	if is.Uid != 0 || to.Uid == 0 || os.Geteuid() != 0 {
		return nil
	}
	// Without the capability it stays as it is: what is written matters more.
	f.Chown(int(to.Uid), int(to.Gid)) //nolint:errcheck,gosec // as said
	return nil
}
