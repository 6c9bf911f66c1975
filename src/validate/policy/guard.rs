//! What a module may not do, told before it runs: call what is not there, call itself in a circle, replace things
//! with `with` outside of tests, or speak for a package that is not below `plumb`.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Literal, Module, Query, Ref, Rule, RuleAssign, RuleHead, Span};

use super::builtin;
use crate::validate::suggest::did_you_mean;

/// Something wrong with a module.
#[derive(Clone, Debug)]
pub(super) struct Objection {
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub message: String,
    pub help: String,
}

impl Objection {
    fn at(span: &Span, message: String, help: impl Into<String>) -> Self {
        Self { file: span.source.file().clone(), line: span.line, column: span.col, message, help: help.into() }
    }
}

/// A rule by its whole name, with the package and the short name.
#[derive(Clone, Debug)]
pub(super) struct RuleName {
    pub file: String,
    pub package: String,
    pub name: String,
}

impl RuleName {
    /// `data.plumb.names.deny`.
    pub fn path(&self) -> String {
        format!("data.{}.{}", self.package, self.name)
    }
}

/// The names of all rules of `modules`, in order, each once.
pub(super) fn rules(modules: &[Ref<Module>]) -> Vec<RuleName> {
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for module in modules {
        let package = package_of(module);
        for rule in &module.policy {
            let name = path_of(head_of(rule)).join(".");
            if seen.insert((package.clone(), name.clone())) {
                names.push(RuleName {
                    file: module.package.span.source.file().clone(),
                    package: package.clone(),
                    name,
                });
            }
        }
    }
    names
}

/// All that is wrong with `modules`.
pub(super) fn objections(modules: &[Ref<Module>]) -> Vec<Objection> {
    let functions: BTreeSet<String> =
        rules(modules).iter().map(|rule| rule.path().trim_start_matches("data.").to_owned()).collect();
    let mut objections = Vec::new();
    let mut calls: BTreeMap<String, Vec<(String, Span)>> = BTreeMap::new();
    for module in modules {
        let package = package_of(module);
        if package != "plumb" && !package.starts_with("plumb.") {
            objections.push(Objection::at(
                &module.package.span,
                format!("the package {package:?} is not below plumb, so nothing would ask it"),
                "call it plumb.<name>",
            ));
        }
        let imports = imports_of(module);
        for rule in &module.policy {
            let caller = format!("{package}.{}", path_of(head_of(rule)).join("."));
            let mut visitor = Visitor { calls: Vec::new(), with: Vec::new() };
            visitor.rule(rule);
            if !is_test(module.package.span.source.file()) {
                objections.extend(visitor.with.iter().map(|span| {
                    Objection::at(span, "`with` belongs in tests".to_owned(), "pass values to functions instead")
                }));
            }
            for (path, span) in visitor.calls {
                let callee = resolve(&path, &package, &imports, &functions);
                if functions.contains(&callee) {
                    calls.entry(caller.clone()).or_default().push((callee, span));
                } else if !builtin::names().any(|name| name == callee) {
                    let names: Vec<&str> = builtin::names().collect();
                    let help = match crate::validate::suggest(&callee, names.iter().copied()) {
                        Some(_) => did_you_mean(&callee, "functions", &names),
                        None => "policies see their input and nothing else: no network, no clock, no chance".to_owned(),
                    };
                    objections.push(Objection::at(&span, format!("there is no function {callee:?} here"), help));
                }
            }
        }
    }
    objections.extend(circles(&calls));
    objections
}

/// Whether the file holds tests.
pub(super) fn is_test(file: &str) -> bool {
    file.ends_with("_test.rego")
}

/// Functions that call themselves, through others or at once. They would never end, or end the process.
fn circles(calls: &BTreeMap<String, Vec<(String, Span)>>) -> Vec<Objection> {
    let reaches = |from: &str, wanted: &str| {
        let mut seen = BTreeSet::new();
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if at == wanted {
                return true;
            }
            if seen.insert(at) {
                open.extend(calls.get(at).into_iter().flatten().map(|(callee, _)| callee.as_str()));
            }
        }
        false
    };
    let mut objections = Vec::new();
    for (caller, callees) in calls {
        if let Some((_, span)) = callees.iter().find(|(callee, _)| reaches(callee, caller)) {
            let message = format!("the function {caller:?} calls itself");
            objections.push(Objection::at(span, message, "recursion is not allowed in policies"));
        }
    }
    objections
}

/// The package of a module: `plumb.names`.
pub(super) fn package_of(module: &Module) -> String {
    path_of(&module.package.refr).join(".")
}

fn imports_of(module: &Module) -> BTreeMap<String, String> {
    module
        .imports
        .iter()
        .filter_map(|import| {
            let path = path_of(&import.refr);
            let alias =
                import.r#as.as_ref().map_or_else(|| path.last().cloned(), |span| Some(span.text().to_owned()))?;
            let (root, rest) = path.split_first()?;
            (root == "data").then(|| (alias, rest.join(".")))
        })
        .collect()
}

/// The function that `path` means in `package`, without `data.` in front.
fn resolve(path: &[String], package: &str, imports: &BTreeMap<String, String>, functions: &BTreeSet<String>) -> String {
    let plain = path.join(".");
    let Some((first, rest)) = path.split_first() else { return plain };
    if first == "data" {
        return rest.join(".");
    }
    let local = format!("{package}.{plain}");
    if functions.contains(&local) {
        return local;
    }
    match imports.get(first) {
        Some(target) => {
            std::iter::once(target.as_str()).chain(rest.iter().map(String::as_str)).collect::<Vec<_>>().join(".")
        }
        None => plain,
    }
}

fn head_of(rule: &Rule) -> &Expr {
    match rule {
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
        Rule::Default { refr, .. } => refr,
    }
}

/// `a.b["c"]` as its parts; stops at what is not a fixed name.
fn path_of(expr: &Expr) -> Vec<String> {
    match expr {
        Expr::Var { span, .. } => vec![span.text().to_owned()],
        Expr::RefDot { refr, field, .. } => {
            let mut path = path_of(refr);
            path.push(field.0.text().to_owned());
            path
        }
        Expr::RefBrack { refr, index, .. } => {
            let mut path = path_of(refr);
            if let Expr::String { span, .. } = index.as_ref() {
                path.push(span.text().to_owned());
            }
            path
        }
        _ => Vec::new(),
    }
}

/// Collects the calls of a rule, and its `with`s.
struct Visitor {
    calls: Vec<(Vec<String>, Span)>,
    with: Vec<Span>,
}

impl Visitor {
    fn rule(&mut self, rule: &Rule) {
        match rule {
            Rule::Spec { head, bodies, .. } => {
                match head {
                    RuleHead::Compr { refr, assign, .. } => {
                        self.expr(refr);
                        self.assign(assign.as_ref());
                    }
                    RuleHead::Set { refr, key, .. } => {
                        self.expr(refr);
                        self.maybe(key.as_ref());
                    }
                    RuleHead::Func { args, assign, .. } => {
                        self.all(args);
                        self.assign(assign.as_ref());
                    }
                }
                for body in bodies {
                    self.assign(body.assign.as_ref());
                    self.query(&body.query);
                }
            }
            Rule::Default { args, value, .. } => {
                self.all(args);
                self.expr(value);
            }
        }
    }

    fn assign(&mut self, assign: Option<&RuleAssign>) {
        if let Some(assign) = assign {
            self.expr(&assign.value);
        }
    }

    fn query(&mut self, query: &Query) {
        for statement in &query.stmts {
            for with in &statement.with_mods {
                self.with.push(with.span.clone());
                self.expr(&with.r#as);
            }
            match &statement.literal {
                Literal::SomeVars { .. } => {}
                Literal::SomeIn { key, value, collection, .. } => {
                    self.maybe(key.as_ref());
                    self.expr(value);
                    self.expr(collection);
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expr(expr),
                Literal::Every { domain, query, .. } => {
                    self.expr(domain);
                    self.query(query);
                }
            }
        }
    }

    fn all(&mut self, exprs: &[Ref<Expr>]) {
        for expr in exprs {
            self.expr(expr);
        }
    }

    fn maybe(&mut self, expr: Option<&Ref<Expr>>) {
        if let Some(expr) = expr {
            self.expr(expr);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. }
            | Expr::Var { .. } => {}
            Expr::Array { items, .. } | Expr::Set { items, .. } => self.all(items),
            Expr::Object { fields, .. } => {
                for (_, key, value) in fields {
                    self.expr(key);
                    self.expr(value);
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.expr(term);
                self.query(query);
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.expr(key);
                self.expr(value);
                self.query(query);
            }
            Expr::Call { fcn, params, .. } => {
                self.calls.push((path_of(fcn), fcn.span().clone()));
                self.all(params);
            }
            Expr::UnaryExpr { expr, .. } => self.expr(expr),
            Expr::RefDot { refr, .. } => self.expr(refr),
            Expr::RefBrack { refr, index, .. } => {
                self.expr(refr);
                self.expr(index);
            }
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => {
                self.expr(lhs);
                self.expr(rhs);
            }
            Expr::Membership { key, value, collection, .. } => {
                self.maybe(key.as_ref());
                self.expr(value);
                self.expr(collection);
            }
        }
    }
}
