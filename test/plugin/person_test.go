// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// The roles of docs/access.md.
const (
	editor       = "chatrun-editor"
	streamReader = "chatrun-stream-reader"
	viewer       = "chatrun-viewer"
)

// person is somebody with a kubeconfig, in a namespace with a provider.
type person struct {
	t                     *testing.T
	namespace, kubeconfig string
	account               *corev1.ServiceAccount
}

// newPerson makes a namespace with the provider "openai", and somebody with a token who
// has these roles in it.
func newPerson(t *testing.T, roles ...string) *person {
	t.Helper()
	namespace := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(t.Name()), "-"), "-")
	p := &person{t: t, namespace: namespace}
	p.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, p.provider("openai"))
	return p.with("person", roles...)
}

func (p *person) provider(name string) *v1alpha1.ChatProvider {
	return &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: name},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: the.fake.URL() + "/v1", DefaultModel: "gpt-5-mini"},
	}
}

// with is somebody else in the same namespace.
func (p *person) with(name string, roles ...string) *person {
	p.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: name}}
	p.create(account)
	other := &person{t: p.t, namespace: p.namespace, account: account}
	subject := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: p.namespace, Name: name}
	for _, role := range roles {
		other.bind(p.namespace, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, subject)
	}
	config := p.config()
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: other.token()}
	other.write(config)
	return other
}

// certified is somebody who shows a client certificate, and has no token.
func (p *person) certified(roles ...string) *person {
	p.t.Helper()
	name := p.namespace + "-certified"
	_, path, err := the.plane.AddUser(name)
	NewWithT(p.t).Expect(err).NotTo(HaveOccurred())
	other := &person{t: p.t, namespace: p.namespace, kubeconfig: path}
	for _, role := range roles {
		other.bind(p.namespace, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name})
	}
	return other
}

// forwards lets somebody forward ports to managers.
func (p *person) forwards() *person {
	p.t.Helper()
	p.bind(home, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "forwarder"},
		rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: p.namespace, Name: p.account.Name})
	return p
}

func (p *person) bind(namespace string, role rbacv1.RoleRef, subject rbacv1.Subject) {
	p.t.Helper()
	p.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: role.Name + "-"}, RoleRef: role, Subjects: []rbacv1.Subject{subject},
	})
}

func (p *person) create(objects ...client.Object) {
	p.t.Helper()
	for _, object := range objects {
		NewWithT(p.t).Expect(the.plane.Client.Create(p.t.Context(), object)).To(Succeed())
	}
}

func (p *person) token() string {
	p.t.Helper()
	request := &authenticationv1.TokenRequest{}
	NewWithT(p.t).Expect(the.plane.Client.SubResource("token").Create(p.t.Context(), p.account, request)).To(Succeed())
	return request.Status.Token
}

func (p *person) config() *clientcmdapi.Config {
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: the.plane.Config.Host, CertificateAuthorityData: the.plane.Config.CAData}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: p.namespace}
	config.CurrentContext = "x"
	return config
}

func (p *person) write(config *clientcmdapi.Config) {
	p.t.Helper()
	p.kubeconfig = filepath.Join(p.t.TempDir(), "kubeconfig")
	NewWithT(p.t).Expect(clientcmd.WriteToFile(*config, p.kubeconfig)).To(Succeed())
}

// asks says how a question is answered, and returns it.
func (p *person) asks(name string, answers ...chattest.Response) string {
	question := name + " of " + p.namespace
	the.scripts.Store(question, chattest.Sequence(answers...))
	return question
}

// run is the state of a run now.
func (p *person) run(name string) *v1alpha1.ChatRun {
	p.t.Helper()
	run := &v1alpha1.ChatRun{}
	NewWithT(p.t).Expect(the.plane.Client.Get(p.t.Context(), client.ObjectKey{Namespace: p.namespace, Name: name}, run)).To(Succeed())
	return run
}

// exists says whether a run does.
func exists(p *person, name string) error {
	return the.plane.Client.Get(p.t.Context(), client.ObjectKey{Namespace: p.namespace, Name: name}, &v1alpha1.ChatRun{})
}

// becomes waits for a phase of a run.
func (p *person) becomes(name string, phase v1alpha1.Phase) {
	p.t.Helper()
	NewWithT(p.t).Eventually(func() v1alpha1.Phase { return p.run(name).Status.Phase }).WithTimeout(patience).Should(Equal(phase))
}

// said is what the plugin wrote, and its exit code.
type said struct {
	out, err string
	code     int
}

// command is the plugin as a person of ours runs it.
func (p *person) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.t.Context(), filepath.Join(the.bin, "kubectl-chatrun"), args...)
	cmd.Env = p.environment()
	return cmd
}

func (p *person) environment() []string {
	return []string{
		"KUBECONFIG=" + p.kubeconfig, "HOME=" + filepath.Dir(p.kubeconfig), "TERM=xterm-256color",
		"PATH=" + the.bin + string(os.PathListSeparator) + os.Getenv("KUBEBUILDER_ASSETS") + string(os.PathListSeparator) + os.Getenv("PATH"),
	}
}

// chatrun runs the plugin through pipes, with nothing at its standard input.
func (p *person) chatrun(args ...string) said {
	p.t.Helper()
	return p.piped(nil, args...)
}

func (p *person) piped(stdin io.Reader, args ...string) said {
	p.t.Helper()
	return p.finish(p.command(args...), stdin)
}

func (p *person) finish(cmd *exec.Cmd, stdin io.Reader) said {
	p.t.Helper()
	var out, failed bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &failed
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return said{out.String(), failed.String(), cmd.ProcessState.ExitCode()}
}

// expect holds what was said against what it is to hold: standard output is exact, of
// standard error each text has to be there.
func (s said) expect(t *testing.T, code int, out string, err ...string) {
	t.Helper()
	g := NewWithT(t)
	g.Expect(s.code).To(Equal(code), "it said: %s\n%s", s.out, s.err)
	g.Expect(s.out).To(Equal(out), "standard error: %s", s.err)
	for _, text := range err {
		g.Expect(s.err).To(ContainSubstring(text))
	}
}
