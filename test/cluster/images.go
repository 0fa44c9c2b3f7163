package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Names of images in the cluster.
const (
	pauseImage = "localhost/pause:1"
	boxImage   = "localhost/box:1"
)

// writeImages writes an archive as `docker save` does, of images with one layer
// each: a folder becomes an image's root.
func writeImages(file string, roots map[string]string) error {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	put := func(name string, b []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	}
	var manifest []entry
	for tag, root := range roots {
		layer, err := tarFolder(root)
		if err != nil {
			return fmt.Errorf("image %s: %w", tag, err)
		}
		sum := digest(layer)
		config, err := json.Marshal(map[string]any{
			"architecture": "amd64", "os": "linux",
			"config": map[string]any{"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
				"Cmd": []string{"/bin/busybox", "tail", "-f", "/dev/null"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum}},
		})
		if err != nil {
			return err
		}
		e := entry{Config: digest(config) + ".json", RepoTags: []string{tag}, Layers: []string{sum + "/layer.tar"}}
		if err := put(e.Config, config); err != nil {
			return err
		}
		if err := put(e.Layers[0], layer); err != nil {
			return err
		}
		manifest = append(manifest, e)
	}
	b, err := json.Marshal(manifest)
	if err != nil {
		return err
	}
	if err := put("manifest.json", b); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// tarFolder gives a folder's content, owned by root.
func tarFolder(root string) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, name)
		if err != nil || rel == "." {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := ""
		if d.Type()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(name); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		h.Name, h.Uid, h.Gid, h.Uname, h.Gname = rel, 0, 0, "", ""
		if err := w.WriteHeader(h); err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out.Bytes(), w.Close()
}

// boxFolder makes an image's root of busybox with its links, and of files by
// their place in it.
func boxFolder(dir, busybox string, applets []string, files map[string]string) error {
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "run", "host"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(dir, "bin/busybox"), busybox); err != nil {
		return err
	}
	for _, a := range applets {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	for to, from := range files {
		if err := copyFile(filepath.Join(dir, to), from); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/:/bin/sh\n"), 0o644)
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

// fields of a command's output.
func fields(b []byte) []string { return strings.Fields(string(b)) }
