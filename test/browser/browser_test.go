package browser

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/report"
)

// program is Debian's package, and its program.
const program = "chromium-headless-shell"

// tab is a page in a browser of its own.
type tab struct {
	tb  testing.TB
	ctx context.Context

	mu       sync.Mutex
	said     []string // on the console, by the page or of it
	requests []string
}

// open starts a browser and loads the page of a report, light and at a desk's width. What options do
// comes before.
func open(tb testing.TB, r *reach.Report, options ...func(*tab)) *tab {
	tb.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("HOMEPORT_BROWSER") == "1" {
			tb.Fatalf("HOMEPORT_BROWSER=1 wants %s: %v; hack/deps.sh installs it", program, err)
		}
		tb.Skipf("%s is not installed (hack/deps.sh does it)", program)
	}
	how := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.UserDataDir(tb.TempDir()), chromedp.WindowSize(1280, 900))
	if os.Geteuid() == 0 {
		how = append(how, chromedp.NoSandbox)
	}
	limited, cancel := context.WithTimeout(tb.Context(), 2*time.Minute)
	tb.Cleanup(cancel)
	ctx, end := chromedp.NewExecAllocator(limited, how...)
	tb.Cleanup(end)
	t := &tab{tb: tb}
	t.ctx, end = chromedp.NewContext(ctx)
	tb.Cleanup(end)
	if err := chromedp.Listen(t.ctx, t.hear); err != nil {
		tb.Fatal(err)
	}
	command(t, log.Enable, cdp.Empty{})
	command(t, network.Enable, network.EnableParams{})
	t.media("", "light")
	for _, o := range options {
		o(t)
	}
	t.do(chromedp.Navigate((&url.URL{Scheme: "file", Path: page(tb, r)}).String()))
	return t
}

// page writes a report's page to a file.
func page(tb testing.TB, r *reach.Report) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "check.html")
	f, err := os.Create(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := (report.Printer{W: f}).ReachHTML(r, nil); err != nil {
		tb.Fatal(err)
	}
	return name
}

// hear keeps what the page says and asks for.
func (t *tab) hear(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventConsoleAPICalled:
		for _, a := range e.Args {
			t.said = append(t.said, string(a.Value))
		}
	case *runtime.EventExceptionThrown:
		t.said = append(t.said, e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		t.said = append(t.said, e.Entry.Text)
	case *network.EventRequestWillBeSent:
		t.requests = append(t.requests, e.Request.URL)
	}
}

// quiet fails where the page said anything, or asked for more than itself.
func (t *tab) quiet() {
	t.tb.Helper()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.said) > 0 {
		t.tb.Errorf("on the console: %s", strings.Join(t.said, "\n"))
	}
	own := slices.DeleteFunc(slices.Clone(t.requests), func(u string) bool { return u == "data:," })
	if len(own) != 1 || !strings.HasPrefix(own[0], "file:") {
		t.tb.Errorf("asked for %q, want the page alone", t.requests)
	}
}

func (t *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	t.tb.Helper()
	if err := chromedp.Do(t.ctx, actions...); err != nil {
		t.tb.Fatal(err)
	}
}

// command is one of the browser's own.
func command[P, R any](t *tab, c cdp.Command[P, R], params P) {
	t.tb.Helper()
	if _, err := chromedp.Call(t.ctx, c, params); err != nil {
		t.tb.Fatal(err)
	}
}

// eval runs a function's body in the page.
func eval[T any](t *tab, body string) T {
	t.tb.Helper()
	out, err := chromedp.Run(t.ctx, chromedp.Evaluate[T]("(() => {"+body+"})()"))
	if err != nil {
		t.tb.Fatal(err)
	}
	return out
}

// settle waits until an expression is true in the page.
func (t *tab) settle(expression string) {
	t.tb.Helper()
	if _, err := chromedp.Run(t.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(10*time.Second))); err != nil {
		t.tb.Fatalf("%s does not become true: %v", expression, err)
	}
}

// media has the browser prefer light or dark, on a screen ("") or for "print".
func (t *tab) media(media, scheme string) {
	t.tb.Helper()
	command(t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
}

// noScript is for browsers that run none.
func noScript(t *tab) {
	t.tb.Helper()
	command(t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
}

// keep writes a picture, or a printed page, where HOMEPORT_PHOTOS names a folder, to be looked at.
func (t *tab) keep(name string, make chromedp.Action[[]byte]) {
	t.tb.Helper()
	dir := os.Getenv("HOMEPORT_PHOTOS")
	if dir == "" {
		return
	}
	b, err := chromedp.Run(t.ctx, make)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), b, 0o644)
	}
	if err != nil {
		t.tb.Fatal(err)
	}
}

// photo is of the whole page.
func (t *tab) photo(name string) {
	t.tb.Helper()
	t.keep(name+".png", chromedp.FullScreenshot(100))
}

// part is a photo of one element.
func (t *tab) part(name, selector string) {
	t.tb.Helper()
	t.keep(name+".png", chromedp.Screenshot(chromedp.CSS(selector)))
}
