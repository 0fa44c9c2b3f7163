package deploy

import (
	"debug/elf"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// copied lists what the Dockerfile's last stage copies into the image.
func copied(t *testing.T) []string {
	t.Helper()
	text := string(read(t, "Dockerfile"))
	last := text[strings.LastIndex(text, "\nFROM "):]
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^COPY (?:--from=build )?(\S+) (\S+)$`).FindAllStringSubmatch(last, -1) {
		out = append(out, m[2])
	}
	slices.Sort(out)
	return out
}

// TestImageLayout makes the image's files without Docker, for both kinds of
// machine: just those that the Dockerfile copies, and programs that need nothing of
// the base image.
func TestImageLayout(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		t.Run(arch, func(t *testing.T) {
			if arch != runtime.GOARCH && os.Getenv("HOMEPORT_CLUSTER") != "1" {
				t.Skip("compiles everything for another kind of machine: make test-api does")
			}
			testLayout(t, arch, machine)
		})
	}
}

func testLayout(t *testing.T, arch string, machine elf.Machine) {
	out := t.TempDir()
	if text, err := exec.Command(root+"/hack/image-layout.sh", "-o", out, arch).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	top := filepath.Join(out, arch)
	var got []string
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, top)
		got = append(got, name)
		if strings.HasPrefix(name, "/usr/local/bin/") {
			checkProgram(t, path, machine)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if d := cmp.Diff(copied(t), got); d != "" {
		t.Errorf("-Dockerfile +layout:\n%s", d)
	}
}

// checkProgram wants a static executable for that kind of machine.
func checkProgram(t *testing.T, path string, machine elf.Machine) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	defer f.Close()
	if f.Machine != machine {
		t.Errorf("%s is for %v, want %v", path, f.Machine, machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("%s is linked dynamically", path)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o111 != 0o111 {
		t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
	}
}

// TestDockerfile: what it copies is there, and its programs are built as the layout's.
func TestDockerfile(t *testing.T) {
	text, script := string(read(t, "Dockerfile")), string(read(t, "hack", "image-layout.sh"))
	for _, m := range regexp.MustCompile(`(?m)^COPY ([^-].*) \S+$`).FindAllStringSubmatch(text, -1) {
		for _, name := range strings.Fields(m[1]) {
			if _, err := os.Stat(filepath.Join(root, name)); err != nil {
				t.Errorf("COPY %s: %v", m[1], err)
			}
			if !strings.Contains(string(read(t, ".dockerignore")), "\n!"+name+"\n") {
				t.Errorf("COPY %s: .dockerignore leaves %s out", m[1], name)
			}
		}
	}
	const flags = `-trimpath -buildvcs=false -ldflags "-s -w -X main.version=$`
	const programs = "./cmd/bridge-agent ./cmd/cni-plugin ./cmd/homeportctl\n"
	for name, s := range map[string]string{"Dockerfile": text, "hack/image-layout.sh": script} {
		if !strings.Contains(s, flags) || !strings.Contains(s, programs) || !strings.Contains(s, "CGO_ENABLED=0") {
			t.Errorf("%s builds otherwise than with %s and %s", name, flags, programs)
		}
	}
	module := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(read(t, "go.mod")))
	if !strings.Contains(text, "FROM --platform=$BUILDPLATFORM golang:"+module[1]+"-") {
		t.Errorf("go.mod wants Go %s; the Dockerfile builds with another", module[1])
	}
	for _, file := range []string{"daemonset.yaml", "uninstall.yaml"} {
		for _, u := range objects(t, read(t, "deploy", file)) {
			if u.GetKind() != "DaemonSet" && u.GetKind() != "Deployment" {
				continue
			}
			for _, c := range pod(t, u).Containers {
				if !strings.HasPrefix(c.Image, "ghcr.io/homeport-cni/homeport:v") {
					t.Errorf("%s %s: image %s", file, u.GetName(), c.Image)
				}
			}
		}
	}
}
